"""A question set in a real browser, to its end: blind, resumable, by keyboard, with progress and repeats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Error

from studio.data import load_data
from studio.question_sets import QuestionSet, make_set
from studio.ranking import judgements
from studio.raters import consistency
from studio.store import Store
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = {"zebrafink": "textiles", "quokkatau": "commands", "wombatrix": "linear"}
COUNT = 6


@pytest.fixture(scope="module")
def sets(web_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a runs folder with one set of questions."""
    folder = tmp_path_factory.mktemp("set-runs")
    source = Path(web_data["helpdesk"])
    shutil.copytree(source.parent, folder / "rows")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    made = []
    for number in range(COUNT):
        row = json.loads(json.dumps(rows[number % len(rows)]))
        content = row["messages"][0]["content"]
        content[-1]["text"] = f"What is wrong with this cloth, and what does the caller want? ({number + 1})"
        row["messages"][0]["content"] = content if number % 2 else [content[0], content[-1]]
        made.append(row)
    file = folder / "rows" / "set.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    make_set("cloth", load_data(file), folder / "questions", domain="textiles", source="set.jsonl")
    return folder


@pytest.fixture(scope="module")
def the_set(sets: Path) -> QuestionSet:
    """Return the set as the app reads it."""
    from studio.question_sets import find_set

    return find_set(sets / "questions", "cloth")


@pytest.fixture
def blind_app(serve_app: Callable[..., Any], web_variants: dict[str, Any], sets: Path) -> Any:
    """Return an app with telling names that hides them; its store is empty, at a second try, too."""
    variants = {name: web_variants["variants"][of] for name, of in NAMES.items()}
    return serve_app(variants=variants, runs=str(sets), blind=True)


def judge(page: Page, key: str) -> None:
    """Give a verdict on the question that is shown, and wait for what follows."""
    page.wait_for_selector(".tp-verdict, .tp-end")
    token = page.locator(".tp-board").get_attribute("data-token")
    page.keyboard.press(key)
    page.wait_for_function(
        "token => document.querySelector('.tp-end')"
        " || (document.querySelector('.tp-board')?.dataset.token ?? token) !== token",
        arg=token,
    )


def test_a_set_is_worked_through_to_its_end(
    open_page: Callable[..., Page],
    axe: Callable[[Page], None],
    blind_app: Any,
    the_set: QuestionSet,
) -> None:
    replies: list[Any] = []
    page = open_page("/questions", app=blind_app, ready=("#tp-begin",))

    page.on("requestfinished", lambda asked: replies.append(asked.response()))
    page.get_by_text("0 of 7 answered").wait_for()
    axe(page)
    shoot(page, "questions-begin-light")
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector(".tp-verdict")
    page.get_by_role("img", name="The picture of the question").wait_for()
    assert [words.strip() for words in page.locator(".tp-panel h3").all_text_contents()] == [
        "Answer A",
        "Answer B",
    ]
    assert not any("s" in words.split() for words in page.locator(".tp-figures").all_inner_texts())
    axe(page)
    shoot(page, "questions-light")
    for key in ("1", "t", "b"):
        judge(page, key)
    page.get_by_text("3 of 7 answered").wait_for()

    again = open_page("/questions", app=blind_app, size="phone", scheme="dark", ready=("#tp-begin",))
    again.on("requestfinished", lambda asked: replies.append(asked.response()))
    again.get_by_text("3 of 7 answered").wait_for()
    again.get_by_role("button", name="Go on").click()
    again.wait_for_selector(".tp-verdict")
    axe(again)
    assert too_wide(again) == 0
    shoot(again, "questions-phone-dark")
    judge(again, "s")
    for _ in range(3):
        judge(again, "1")
    again.get_by_text("Thank you, that is all of cloth v1").wait_for()
    again.get_by_text("7 of 7 answered").wait_for()
    axe(again)
    shoot(again, "questions-end-phone-dark")

    with Store(blind_app.store_url) as store:
        comparisons = store.comparisons(question_set=the_set.hash)
        votes = store.votes(question_set=the_set.hash)
    judged = {vote.comparison for vote in votes}
    done = [one for one in comparisons if one.id in judged]
    assert len(votes) == 7
    assert {one.question for one in done} == {one.id for one in the_set.questions}
    assert all(one.blind and one.domain == "textiles" and one.asker == "local" for one in done)
    assert all(vote.seconds is not None and vote.seconds > 0 and not vote.flagged for vote in votes)
    questions = [one.question for one in done]
    (twice,) = [one for one in the_set.questions if questions.count(one.id) == 2]
    first, second = [one for one in done if one.question == twice.id]
    assert first.variants == second.variants[::-1]
    assert [repeats for _, repeats in consistency(judgements(comparisons, votes)).values()] == [1]
    told = []
    for reply in replies:
        with suppress(Error):  # the browser has forgotten bodies of the page before
            told.append(reply.text().lower())
    assert not [text[:200] for text in told for name in NAMES if name in text]
    assert any("what is wrong with this cloth" in text for text in told)

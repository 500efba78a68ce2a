"""The page of results in a real browser: few and many votes, files to take away, and nothing for experts."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.store import Store
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

STRENGTH = {"base": -160.0, "textiles": -30.0, "linear": 120.0, "ties": 330.0}


def fill(url: str, count: int) -> None:
    """Keep verdicts of six raters of two groups in two domains, one of them careless, some asked again."""
    draw = random.Random(1)
    raters = [f"rater {n}" for n in range(6)]
    with Store(url) as store:
        for number in range(count):
            a, b = draw.sample(sorted(STRENGTH), 2)
            domain = ("textiles", "helpdesk")[number % 2]
            for rater in draw.sample(raters, 2 if number % 3 == 0 else 1):
                asked = store.add_comparison(
                    f"question {number}?", [a, b], domain=domain, blind=True, asker=rater
                )
                for name in (a, b):
                    store.add_answer(asked, name, f"{name} says {number}")
                chance = 0.5 if rater == "rater 5" else 1 / (1 + 10 ** ((STRENGTH[b] - STRENGTH[a]) / 400))
                choice = "tie" if draw.random() < 0.1 else a if draw.random() < chance else b
                group = ("senior", "junior")[int(rater[-1]) % 2]
                store.vote(asked, choice, rater=rater, rater_group=group, flagged=number == 4)


def open_results(open_page: Callable[..., Page], app: Any, **look: str) -> Page:
    page = open_page(
        "/results", app=app, ready=("#tp-refresh", "#tp-found :is(.tp-results, .tp-card)"), **look
    )
    return page


@pytest.fixture(scope="module")
def many(serve_app: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an app over a store with votes for all to be told apart."""
    url = f"sqlite:///{tmp_path_factory.mktemp('many') / 'kept.db'}"
    fill(url, 240)
    return serve_app(store_url=url)


def test_many_votes_rank_the_variants_and_say_whom_to_believe(
    open_page: Callable[..., Page], axe: Callable[[Page], None], many: Any
) -> None:
    page = open_results(open_page, many)
    page.get_by_text("ties is best: its interval is above all others.").wait_for()
    rows = page.locator(".tp-ranking tbody th").all_inner_texts()
    assert [row.splitlines()[0] for row in rows] == ["ties", "linear", "textiles", "base"]
    assert page.locator(".tp-ranking").get_by_text("enough votes").count() == 4
    assert page.get_by_role("table", name="").count() >= 2
    assert page.locator("figure").get_by_text("Who beats whom").count() == 1
    assert page.locator("figure").get_by_text("By domain").count() == 1
    assert page.locator("dd").get_by_text("Krippendorff's alpha").count() == 1
    assert page.get_by_text("1 flagged verdict left out").count() == 1
    axe(page)
    shoot(page, "results-light")
    page.locator("#tp-part input").click()
    page.get_by_role("option", name="raters junior").click()
    page.wait_for_function("document.querySelectorAll('.tp-maps figure').length === 3")
    dark = open_results(open_page, many, size="phone", scheme="dark")
    dark.get_by_text("ties is best").wait_for()
    assert too_wide(dark) == 0
    axe(dark)
    shoot(dark, "results-phone-dark")


def test_the_results_and_the_votes_are_files_to_take_away(
    open_page: Callable[..., Page], many: Any, tmp_path: Path
) -> None:
    page = open_results(open_page, many)

    def take(words: str) -> Path:
        with page.expect_download() as waiting:
            page.get_by_role("button", name=words, exact=True).click()
        target = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(target)
        return target

    table = take("CSV")
    assert table.name == "results.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["variant"] for row in rows if row["of"] == "all"] == ["ties", "linear", "textiles", "base"]
    assert {row["name"] for row in rows} == {"", "textiles", "helpdesk", "senior", "junior"}
    whole = json.loads(take("JSON").read_text())
    assert whole["flagged"] == 1
    assert whole["ranking"]["standings"][0]["variant"] == "ties"
    assert take("Picture").read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(take("Votes as training data")) as archive:
        rows = archive.read("votes/preferences.jsonl").decode().splitlines()
    assert len(rows) > 200
    assert "rater 5" not in "".join(rows)


def test_few_votes_are_called_few_and_a_vote_that_comes_in_counts_at_the_next_look(
    open_page: Callable[..., Page],
    axe: Callable[[Page], None],
    serve_app: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('few') / 'kept.db'}"
    app = serve_app(store_url=url)
    page = open_results(open_page, app)
    page.get_by_text("No votes yet").wait_for()
    axe(page)
    fill(url, 12)
    page.get_by_role("button", name="Refresh").click()
    page.get_by_text("may be as good: not enough votes").wait_for()
    assert page.locator(".tp-ranking").get_by_text("not enough votes: about").count() == 4
    axe(page)
    shoot(page, "results-few-light")

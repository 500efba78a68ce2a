"""Judging on the Compare page in a browser: reasons, points, marks, conversations, and who may edit them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.web.panels import panels_html
from apps.web.rounds import Panel, State
from apps.web.voting import Ballot
from studio.store import Store
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

PARTS = ("#tp-board .tp-board", "#tp-variants input:checked", "#tp-send", "#tp-sound", "#tp-picture")
ARTICLES = "[...document.querySelectorAll('.tp-panel')]"


@pytest.fixture
def asked(open_page: Callable[..., Page], web_app: Any) -> Callable[..., Page]:
    """Return a function that opens the page and asks the first example."""

    def ask(size: str = "desktop", scheme: str = "light") -> Page:
        page = open_page("/", size=size, scheme=scheme, app=web_app, ready=PARTS)
        page.get_by_role("button", name="helpdesk").click()
        page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Send").click()
        page.wait_for_selector(".tp-verdict")
        return page

    return ask


def test_a_verdict_takes_reasons_points_and_words_and_is_in_the_store(
    asked: Callable[..., Page], axe: Callable[[Page], None], web_app: Any
) -> None:
    page = asked()
    page.get_by_text("Say why, before you choose").click()
    page.get_by_role("checkbox", name="missed something").check()
    page.get_by_role("checkbox", name="wording").check()
    page.get_by_role("combobox", name="linear: usefulness").select_option("4")
    page.get_by_role("textbox", name="Note").fill("t is no verdict while it is typed <b>")
    page.get_by_role("textbox", name="The answer as it should have been").fill("a hole")
    axe(page)
    shoot(page, "compare-why-light")
    page.get_by_role("button", name="linear is the best").click()
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    said = page.get_by_role("status").filter(has_text="Your verdict is kept.")
    said.wait_for(state="attached")
    axe(page)
    shoot(page, "compare-voted-light")
    with Store(web_app.store_url) as store:
        vote = store.votes()[-1]
        kept = store.comparison(vote.comparison)
    assert (vote.choice, vote.reasons) == ("linear", ("missed something", "wording"))
    assert vote.scores == {"usefulness: linear": 4}
    assert (vote.note, vote.correction) == ("t is no verdict while it is typed <b>", "a hole")
    assert vote.seconds is not None
    assert kept.domain == "helpdesk"


def test_marks_show_what_only_one_answer_says_and_stay_as_they_were_left(
    asked: Callable[..., Page], axe: Callable[[Page], None]
) -> None:
    page = asked(scheme="dark")
    line = "getComputedStyle(document.querySelector('.tp-text mark')).textDecorationLine"
    assert page.evaluate(line) == "none"
    switch = page.get_by_role("button", name="Mark differences")
    switch.click()
    assert page.evaluate(line) == "underline"
    assert switch.get_attribute("aria-pressed") == "true"
    axe(page)
    shoot(page, "compare-marks-dark")
    page.keyboard.press("t")
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    assert page.get_by_role("button", name="Mark differences").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Mark differences").click()
    assert page.evaluate(line) == "none"


def test_a_conversation_goes_on_in_every_panel(
    asked: Callable[..., Page], axe: Callable[[Page], None], web_app: Any
) -> None:
    page = asked("phone")
    first = page.evaluate(f"{ARTICLES}.map(e => e.querySelector('.tp-text').textContent)")
    field = page.get_by_role("textbox", name="Ask all of them further")
    field.fill("and what is right?")
    field.press("Control+Enter")
    page.wait_for_selector(".tp-turn")
    page.wait_for_selector(".tp-verdict")
    assert page.evaluate(f"{ARTICLES}.map(e => e.querySelector('.tp-past').textContent)") == first
    turns = page.locator(".tp-panel").first.locator(".tp-turn").all_inner_texts()
    assert [turn.removeprefix("You asked:").strip() for turn in turns] == [
        "what is wrong here? 0",
        "and what is right?",
    ]
    assert field.input_value() == ""
    assert not too_wide(page)
    page.locator(".tp-verdict").scroll_into_view_if_needed()
    top = page.locator("#tp-media").bounding_box()
    assert top is not None
    assert top["y"] >= 0
    axe(page)
    shoot(page, "compare-conversation-phone")
    with Store(web_app.store_url) as store:
        kept = store.comparisons()[-1]
    assert kept.prompt == "and what is right?"
    assert len(kept.turns) == 2
    assert len(kept.turns[0]["media"]) == 2


def test_names_are_hidden_when_an_engineer_says_so(asked: Callable[..., Page], web_app: Any) -> None:
    page = asked()
    page.get_by_role("checkbox", name="Hide the names until the verdict").check()
    page.wait_for_function(f"{ARTICLES}.every(e => !e.querySelector('h3').title)")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector(".tp-verdict")
    assert "ties" not in page.locator("#tp-board").inner_html()
    page.keyboard.press("2")
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    titles = page.evaluate(f"{ARTICLES}.map(e => e.querySelector('h3').title)")
    assert sorted(titles) == ["commands", "linear", "ties"]
    with Store(web_app.store_url) as store:
        kept = store.comparisons()[-1]
        assert store.votes(kept.id)[0].choice == titles[1]
    assert kept.blind


def test_an_administrator_edits_what_a_verdict_may_say(
    open_page: Callable[..., Page], asked: Callable[..., Page], axe: Callable[[Page], None], web_app: Any
) -> None:
    page = open_page("/", app=web_app, ready=PARTS)
    page.get_by_role("button", name="What a verdict may say").click()
    reasons = page.get_by_role("textbox", name="Reasons, one a line")
    known = reasons.input_value().removesuffix("\ntoo <i>long</i>")
    assert known.startswith("wrong\nunsafe\nmissed something\nwording")
    reasons.fill("wrong\nwrong")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("'wrong' stands twice among the reasons.").wait_for()
    reasons.fill(f"{known}\ntoo <i>long</i>")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved; the next question offers them.").wait_for()
    axe(page)
    shoot(page, "compare-form-light")
    other = asked()
    other.get_by_text("Say why, before you choose").click()
    assert other.locator(".tp-reason").all_inner_texts()[-1] == "too <i>long</i>"
    form = Path(web_app.log).parent / "runs" / "verdict-form.json"
    assert "too <i>long</i>" in form.read_text()


def test_a_verdict_that_is_refused_keeps_what_was_written(asked: Callable[..., Page]) -> None:
    page = asked()
    page.get_by_text("Say why, before you choose").click()
    page.get_by_role("textbox", name="Note").fill("half a thought")
    page.get_by_role("checkbox", name="wrong").or_(page.locator(".tp-reason input")).first.check()
    page.evaluate("document.querySelector('.tp-vote').dataset.vote = '9'")
    page.locator(".tp-vote").first.click()
    page.get_by_text("That is not a verdict that this page offers.").wait_for()
    assert page.get_by_role("textbox", name="Note").input_value() == "half a thought"
    assert page.locator(".tp-reason input").first.is_checked()
    page.evaluate("document.querySelector('.tp-board').dataset.token = 'forged'")
    page.keyboard.press("t")
    page.get_by_text("That verdict belongs to other answers than those shown").wait_for()


def test_every_state_of_the_panels_can_be_read_by_everyone(
    open_page: Callable[..., Page], axe: Callable[[Page], None]
) -> None:
    states: tuple[State, ...] = ("waiting", "answering", "stopped", "failed")
    panels = [
        Panel(name=state, state=state, text="a hole", note="It is gone.", seconds=1.0) for state in states
    ]
    told = {
        "under-way": panels_html(panels),
        "problem": panels_html(panels[2:], problem="Nothing to ask yet.", ballot=Ballot(), expected="a hole"),
    }
    for scheme in ("light", "dark"):
        page = open_page("/", scheme=scheme, ready=PARTS)
        for name, board in told.items():
            page.evaluate("html => { document.querySelector('.tp-board').outerHTML = html }", board)
            axe(page)
            shoot(page, f"compare-{name}-{scheme}")

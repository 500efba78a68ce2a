"""Explaining answers on the Compare page in a browser, and what is said before a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("captum")

PARTS = ("#tp-board .tp-board", "#tp-send", "#tp-sound", "#tp-picture")


def ask(page: Page) -> None:
    """Ask the first example and wait for the answers."""
    page.get_by_role("button", name="helpdesk").click()
    page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".tp-verdict")
    page.get_by_role("heading", name="Explain an answer").wait_for()


def explain(page: Page, answer: str, against: str = "by itself") -> str:
    """Ask for an explanation, and return its heading."""
    page.get_by_role("combobox", name="Answer to explain").select_option(answer)
    page.get_by_role("combobox", name="By itself, or rather than").select_option(against)
    page.get_by_role("button", name="Explain", exact=True).click()
    page.wait_for_selector(".tp-why:not([data-running]):not([hidden]) .tp-why-parts")
    return page.locator(".tp-why h4").inner_text()


def test_an_answer_is_explained_by_regions_spans_and_words(
    open_page: Callable[..., Page], axe: Callable[[Page], None]
) -> None:
    page = open_page("/", ready=(*PARTS, "#tp-variants input:checked"))
    assert page.locator(".tp-why-ask").is_hidden()
    ask(page)
    heading = explain(page, "B")
    name = page.locator(".tp-panel h3").nth(1).inner_text()
    assert heading.startswith(f"Why {name} says ")
    told = page.locator(".tp-why li").all_inner_texts()
    assert told[0].startswith(f"{name} gives this answer log p")
    assert {word for line in told for word in re.findall(r"lies on the (\w+)", line)} == {
        "picture",
        "sound",
        "words",
    }
    assert page.get_by_role("status").filter(has_text="The explanation is there.").count() == 1
    assert page.locator(".tp-why-picture img").evaluate("e => e.naturalWidth") == 360
    assert page.locator(".tp-why svg rect").count() == 10
    assert page.locator(".tp-why-said").inner_text() == "what is wrong here? 0"
    page.get_by_text("Weights", exact=True).click()
    assert page.locator(".tp-why tr").count() == 12
    axe(page)
    shoot(page, "explain-light")
    page.get_by_role("button", name="Retry").click()  # what is shown is of answers that are gone
    page.wait_for_function("document.querySelector('.tp-why').hidden")


def test_why_one_answer_rather_than_another_on_a_phone_in_the_dark(
    open_page: Callable[..., Page], axe: Callable[[Page], None]
) -> None:
    page = open_page("/", size="phone", scheme="dark", ready=(*PARTS, "#tp-variants input:checked"))
    ask(page)
    heading = explain(page, "A", "rather than B")
    names = page.locator(".tp-panel h3").all_inner_texts()
    assert heading.endswith(f"rather than {names[1]}")
    assert not too_wide(page)
    axe(page)
    shoot(page, "explain-phone-dark")


def test_an_explanation_in_a_blind_round_names_no_variant(
    open_page: Callable[..., Page], serve_app: Callable[..., Any], web_variants: dict[str, Any]
) -> None:
    app = serve_app(blind=True)
    page = open_page("/", app=app, ready=PARTS)
    ask(page)
    heading = explain(page, "A", "rather than B")
    assert heading.startswith("Why variant A says")
    assert heading.endswith("rather than variant B")
    shown = page.locator("#tp-answers").inner_html()
    for name in web_variants["variants"]:
        assert not re.search(rf"\b{name}\b", shown), name
    shoot(page, "explain-blind")

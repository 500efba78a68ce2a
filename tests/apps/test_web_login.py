"""The form in a browser: by keyboard, on a phone, at night; a role sees its pages; out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.browsing import LIMIT, SIZES, shoot, too_wide
from tests.apps.knocking import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "light"), ("phone", "dark")])
def test_the_form_is_readable_by_everybody(
    open_page: Callable[..., Page], closed_app: Any, axe: Callable[[Page], None], size: str, scheme: str
) -> None:
    page = open_page("/", app=closed_app, size=size, scheme=scheme, ready=["#name"])
    assert page.url.endswith("/login")
    assert too_wide(page) == 0
    axe(page)
    shoot(page, f"login-{size}-{scheme}")


def test_somebody_comes_in_and_goes_out_by_keyboard(
    open_page: Callable[..., Page], closed_app: Any, axe: Callable[[Page], None]
) -> None:
    page = open_page("/questions", app=closed_app, ready=["#name"])
    assert page.url.endswith("/login?next=/questions")
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type("erik")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/questions")
    page.click("nav >> text=Sign out")
    page.wait_for_url("**/logout")
    page.wait_for_selector("text=You are signed in as erik, in the role expert.")
    axe(page)
    shoot(page, "logout-desktop-light")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.goto(f"{closed_app.address}/questions")
    assert page.url.endswith("/login?next=/questions")


def test_a_wrong_password_is_told_and_the_name_stays(browser: Any, closed_app: Any) -> None:
    context = browser.new_context()
    context.set_default_timeout(LIMIT)
    page = context.new_page()
    page.goto(closed_app.address)
    page.fill("#name", "er<b>ik")
    page.fill("#password", "not this one")
    page.click("button")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]") == "The name or the password is wrong."
    assert page.input_value("#name") == "er<b>ik"
    assert page.input_value("#password") == ""
    shoot(page, "login-wrong")
    context.close()


def test_whoever_is_signed_out_meanwhile_signs_in_and_comes_back(browser: Any, closed_app: Any) -> None:
    context = browser.new_context(viewport=SIZES["phone"])
    context.set_default_timeout(LIMIT)
    page = context.new_page()

    def sign_in() -> None:
        page.fill("#name", "erik")
        page.fill("#password", PASSWORD)
        page.click("button")

    page.goto(closed_app.address)
    sign_in()
    for part in ("#tp-board .tp-panel", "#tp-text textarea", "#tp-sound", "#tp-picture", "#tp-send"):
        page.wait_for_selector(part)
    assert too_wide(page) == 0
    shoot(page, "signed-in-phone")
    page.fill("#tp-text textarea", "which is it?")
    context.clear_cookies()
    page.click("#tp-send")
    page.wait_for_url("**/login")
    sign_in()
    page.wait_for_selector("#tp-send")
    context.close()

"""A blind app from the outside: nothing that it sends names a variant before the verdict."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from studio.store import Store
from tests.apps.browsing import SHOTS, shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

NAMES = ("wombat-nine", "quokka-seven", "numbat-two")
FOLDERS = ("zebu-made", "okapi-made")
SECRETS = (*NAMES, *FOLDERS)
PARTS = ("#tp-board .tp-panel", "#tp-send", "#tp-sound", "#tp-picture")


@pytest.fixture(scope="module")
def blind_app(
    serve_app: Callable[..., Any], web_variants: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Return a blind app over three variants, the folder of one of which is gone since."""
    folder = tmp_path_factory.mktemp("blind")
    for name, source in zip(FOLDERS, ("ties", "linear"), strict=True):
        shutil.copytree(web_variants["variants"][source], folder / name)
    variants = dict(zip(NAMES, (None, *(str(folder / name) for name in FOLDERS)), strict=True))
    app = serve_app(variants, blind=True, runs=str(folder / "runs"))
    shutil.rmtree(folder / FOLDERS[1])
    return app


#: Keeps what streams say while they say it: a browser forgets the body of a stream that was cut off.
LISTEN = """
window.heard = [];
const ask = window.fetch;
window.fetch = async (...asked) => {
  const reply = await ask(...asked);
  if (reply.headers.get("content-type")?.startsWith("text/event-stream")) {
    const reader = reply.clone().body.getReader();
    const words = new TextDecoder();
    const listen = ({ done, value }) => {
      if (done) return;
      window.heard.push(words.decode(value, { stream: true }));
      reader.read().then(listen, () => {});
    };
    reader.read().then(listen, () => {});
  }
  return reply;
};
const Source = window.EventSource;
window.EventSource = class extends Source {
  constructor(...asked) {
    super(...asked);
    this.addEventListener("message", (event) => window.heard.push(event.data));
  }
};
"""


def bodies(replies: list[Response]) -> list[str]:
    """Return what was sent beside streams: addresses, headers and bodies."""
    said = [reply for reply in replies if reply.status == 200]
    kinds = {reply: reply.headers.get("content-type", "") for reply in said}
    return [
        "\n".join([reply.url, str(reply.headers), reply.body().decode("utf-8", "replace")])
        for reply in said
        if not kinds[reply].startswith(("text/event-stream", "font/")) and "/heartbeat/" not in reply.url
    ]


def leaks(sent: list[str]) -> list[str]:
    """Return where a name or a folder stands."""
    return [f"{secret} in {text[:100]}" for secret in SECRETS for text in sent if secret in text.lower()]


def finished(page: Page) -> None:
    """Wait until the answers can be judged and another question could be sent."""
    page.wait_for_selector(".tp-verdict")
    page.wait_for_selector("#tp-send")


def test_nothing_that_is_sent_names_a_variant_before_the_verdict(
    open_page: Callable[..., Page], axe: Callable[[Page], None], blind_app: Any
) -> None:
    page = open_page(app=blind_app, ready=PARTS)
    replies: list[Response] = []
    page.on("response", lambda reply: replies.append(reply))
    page.add_init_script(LISTEN)
    page.reload()
    for part in PARTS:
        page.wait_for_selector(part)
    axe(page)
    shoot(page, "compare-blind-empty")
    assert not page.locator("#tp-variants, #tp-hide, #tp-form").count()
    page.get_by_role("radio", name="3").click()
    page.wait_for_selector(".tp-panel[data-place='2']")
    page.get_by_role("button", name="helpdesk").click()
    page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Send").click()
    finished(page)
    assert page.get_by_text("This variant could not answer").count() == 1
    axe(page)
    shoot(page, "compare-blind-answered")
    page.get_by_role("textbox", name="Ask all of them further").fill("and what else?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tp-turn")
    finished(page)
    heard = "".join(page.evaluate("window.heard"))
    assert heard.count("tp-verdict") >= 2, "the streams of answers were not heard"
    assert not leaks([*bodies(replies), heard, page.content()])
    plain = [httpx.get(blind_app.address + path, timeout=90).text for path in ("/", "/config", "/theme.css")]
    assert not leaks(plain)

    judged = page.locator(".tp-panel:not(.tp-failed)").first.get_attribute("data-place")
    page.keyboard.press(str(int(judged or 0) + 1))
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    shown = set(page.locator(".tp-panel h3").all_inner_texts())
    assert {re.sub(r"^Answer [ABC]\s*", "", text) for text in shown} == set(NAMES)
    assert not page.locator("#tp-follow").count()
    axe(page)
    shoot(page, "compare-blind-revealed")
    with Store(blind_app.store_url) as store:
        kept, votes = store.comparisons()[-1], store.votes()
    assert kept.blind
    assert set(kept.variants) == set(NAMES)
    assert votes[-1].choice == kept.variants[int(judged or 0)]
    assert [turn["role"] for turn in kept.turns] == ["user", "assistant"]


def test_a_blind_page_fits_a_phone_in_the_dark_and_retry_draws_again(
    open_page: Callable[..., Page], axe: Callable[[Page], None], blind_app: Any
) -> None:
    page = open_page(app=blind_app, size="phone", scheme="dark", ready=PARTS)
    page.get_by_role("button", name="helpdesk").click()
    page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Send").click()
    finished(page)
    assert not too_wide(page)
    page.locator("#tp-board").scroll_into_view_if_needed()
    page.mouse.wheel(0, 3000)
    page.wait_for_timeout(300)
    assert page.locator("#tp-media").bounding_box()["y"] >= 0  # type: ignore[index]
    axe(page)
    shoot(page, "compare-blind-phone-dark")
    page.screenshot(path=SHOTS / "compare-blind-phone-scrolled.png")
    page.keyboard.press("s")
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    assert any(name in page.locator(".tp-panels").inner_text() for name in NAMES)
    page.get_by_role("button", name="Retry").click()
    page.wait_for_function("!document.querySelector('.tp-panels').innerText.includes('-')")
    finished(page)
    with Store(blind_app.store_url) as store:
        one, two = store.comparisons()[-2:]
    assert (one.prompt, one.media) == (two.prompt, two.media)
    assert set(one.variants) != set(two.variants)  # those that were compared least


def test_what_is_sent_to_everyone_names_no_variant_of_a_named_app_either(web_app: Any) -> None:
    for path in ("/", "/config"):
        page = httpx.get(web_app.address + path, timeout=90).text
        assert not [name for name in ("textiles", "commands", '"ties"', "variants1") if name in page]

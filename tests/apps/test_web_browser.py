"""The Compare page in a real browser, over a real server with real merges of a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.evaluate import evaluate
from apps.web.panels import visible
from studio.log import QuietLog
from studio.store import Store
from studio.types import Image, Sample, Sound, Text, Turn
from studio.variants import Engine
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).resolve().parent
PARTS = ("#tp-board .tp-board", "#tp-variants input:checked", "#tp-send", "#tp-sound", "#tp-picture")


@pytest.fixture
def open_compare(open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Return a function that opens the Compare page and waits for all of its fields."""
    return lambda size="desktop", scheme="light": open_page("/", size=size, scheme=scheme, ready=PARTS)


@pytest.fixture(scope="module")
def engine(web_app: Any) -> Engine:
    """Return an engine of our own over the same folders as the app's."""
    return Engine(web_app.base, web_app.variants)


@pytest.fixture(scope="module")
def media(web_app: Any) -> dict[str, Path]:
    """Return a picture and a recording to upload."""
    folder = Path(web_app.data["helpdesk"]).parent
    return {"picture": folder / "cloth-1.png", "sound": folder / "voice-2.wav"}


def choose(page: Page, *names: str) -> None:
    """Leave just these variants chosen."""
    group = page.locator("#tp-variants")
    for box in group.get_by_role("checkbox").all():
        if box.is_checked() and box.get_attribute("name") not in names:
            box.uncheck()
    for name in names:
        group.get_by_role("checkbox", name=name, exact=True).check()
    page.wait_for_function(
        "names => [...document.querySelectorAll('.tp-panel h3')].map(e => e.innerText).sort().join()"
        " === [...names].sort().join()",
        arg=list(names),
    )


def upload(page: Page, media: dict[str, Path]) -> None:
    """Send a picture and a recording to the page's fields."""
    page.locator("#tp-picture input[type=file]").set_input_files(media["picture"])
    page.locator("#tp-sound input[type=file]").set_input_files(media["sound"])
    page.locator("#tp-picture").get_by_role("img", name="The picture of the question").wait_for()
    page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()


def answers(page: Page) -> dict[str, str]:
    """Return what the panels say once all are done: name -> text."""
    page.wait_for_selector(".tp-verdict")
    return {
        panel.locator("h3").inner_text(): (panel.locator(".tp-text").all_text_contents() or [""])[0]
        for panel in page.locator(".tp-panel").all()
    }


def asked(text: str, picture: Path | None = None, sound: Path | None = None) -> Sample:
    """Return the question as a row of a data file would put it."""
    media = [Image(path=picture)] if picture else []
    heard = [Sound(path=sound)] if sound else []
    turns = (
        Turn(role="user", parts=(*media, *heard, Text(text=text))),
        Turn(role="assistant", parts=(Text(text="a hole at the top right"),)),
    )
    return Sample(turns=turns)


def test_two_merges_answer_on_the_page_what_the_evaluation_says(
    open_compare: Callable[..., Page], web_app: Any, engine: Engine, media: dict[str, Path], tmp_path: Path
) -> None:
    page = open_compare()
    choose(page, "linear", "ties")
    upload(page, media)
    page.get_by_role("textbox", name="Text").fill("what is wrong with the cloth?")
    page.get_by_role("button", name="Send").click()
    seen = answers(page)
    shoot(page, "compare-tiny-light")

    sample = asked("what is wrong with the cloth?", media["picture"], media["sound"])
    expected = {name: engine.answer(name, sample) for name in ("linear", "ties")}
    evaluate(engine, {"web": [sample]}, ["exact_match"], QuietLog(), out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    evaluated = {row["variant"]: row["output"] for row in rows if row["variant"] in expected}
    assert expected == evaluated
    assert seen == {name: visible(text) for name, text in expected.items()}
    assert len(set(seen.values())) == 2
    assert expected["ties"] not in ("", engine.answer("ties", asked("what is wrong with the cloth?")))

    page.keyboard.press("2")
    page.get_by_text("Thank you, your verdict is kept.").wait_for()
    with Store(web_app.store_url) as store:
        kept = store.comparisons()[-1]
        votes = store.votes(kept.id)
    assert kept.prompt == "what is wrong with the cloth?"
    assert {answer.variant: answer.text for answer in kept.answers} == expected
    assert all(answer.latency_ms and answer.latency_ms > 0 for answer in kept.answers)
    assert len(kept.media) == 2
    folder = Path(web_app.store_url.removeprefix("sqlite:///")).with_suffix(".media")
    assert {file.stem for file in folder.iterdir()} >= set(kept.media)
    assert [vote.choice for vote in votes] == [kept.variants[1]]


def test_an_example_fills_the_question_and_shows_the_expected_answer(
    open_compare: Callable[..., Page], engine: Engine, web_app: Any
) -> None:
    page = open_compare("phone", "dark")
    page.get_by_role("button", name="helpdesk").click()
    page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
    assert page.get_by_role("textbox", name="Text").input_value() == "what is wrong here? 0"
    page.keyboard.press("Control+Enter")
    seen = answers(page)
    assert list(seen) == ["commands", "linear", "ties"]
    assert page.locator(".tp-expected").inner_text().endswith("a hole at the top right")
    folder = Path(web_app.data["helpdesk"]).parent
    sample = asked("what is wrong here? 0", folder / "cloth-0.png", folder / "voice-0.wav")
    assert seen["ties"] == visible(engine.answer("ties", sample))
    shoot(page, "compare-tiny-phone-dark")
    page.get_by_role("textbox", name="Text").fill("what is wrong here? another")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".tp-answering")
    answers(page)
    assert not page.locator(".tp-expected").count()


def test_a_recording_from_the_microphone_is_heard(open_compare: Callable[..., Page], web_app: Any) -> None:
    page = open_compare()
    sound = page.locator("#tp-sound")
    sound.get_by_role("button", name="Record audio").click()
    sound.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1200)
    sound.get_by_role("button", name="Stop", exact=True).click()
    sound.get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Send").click()
    assert len(answers(page)) == 3
    with Store(web_app.store_url) as store:
        kept = store.comparisons()[-1]
    assert len(kept.media) == 1
    assert kept.prompt == ""


def test_a_picture_that_is_none_is_told_in_one_sentence(
    open_compare: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_compare()
    file = tmp_path / "notes.png"
    file.write_text("these are notes")
    page.locator("#tp-picture input[type=file]").set_input_files(file)
    page.locator("#tp-picture").get_by_role("button", name="Remove Image").wait_for()
    page.get_by_role("button", name="Send").click()
    told = page.get_by_role("alert").filter(has_text="picture").inner_text()
    assert told == "The picture is text, not a picture; allowed: PNG, JPEG, WEBP, GIF, BMP, TIFF."


def test_a_picture_can_be_pasted_anywhere_and_replaces_the_one_before(
    open_compare: Callable[..., Page], media: dict[str, Path]
) -> None:
    page = open_compare()
    pixels = list(media["picture"].read_bytes())
    shown = page.locator("#tp-picture").get_by_role("img", name="The picture of the question")
    addresses = []
    for name in ("one.png", "two.png"):
        page.evaluate(
            """([pixels, name]) => {
              const clipboardData = new DataTransfer();
              clipboardData.items.add(new File([new Uint8Array(pixels)], name, { type: "image/png" }));
              document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
            }""",
            [pixels, name],
        )
        page.wait_for_function(
            "name => document.querySelector('#tp-picture img')?.src.endsWith(name)", arg=name
        )
        addresses.append(shown.get_attribute("src"))
    assert len(set(addresses)) == 2


def test_an_empty_question_and_too_few_variants_are_told(open_compare: Callable[..., Page]) -> None:
    page = open_compare()
    page.get_by_role("button", name="Send").click()
    problem = page.locator(".tp-problem")
    problem.wait_for()
    assert problem.inner_text() == "Nothing to ask yet: add a picture, a recording or a text."
    choose(page, "ties")
    page.get_by_role("textbox", name="Text").fill("hello")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Choose 2 to 4 variants to compare; 1 chosen.").wait_for()
    for name in ("base", "textiles", "commands"):
        page.locator("#tp-variants").get_by_role("checkbox", name=name, exact=True).check()
    page.locator("#tp-variants").get_by_role("checkbox", name="linear").click()
    page.get_by_text("At most 4 variants fit side by side.").wait_for()
    assert page.locator(".tp-panel").count() == 4


@pytest.mark.slow  # on an idle machine the tiny model has answered before a key can arrive
def test_stop_ends_the_answer_and_retry_asks_again(open_compare: Callable[..., Page]) -> None:
    page = open_compare()
    page.get_by_role("button", name="Decoding, the same for all").click()
    page.get_by_role("spinbutton", name="Longest answer").fill("256")
    page.get_by_role("textbox", name="Text").fill("tell me all")
    # A tiny model on an idle machine may have said everything before the key arrives: then ask again.
    for name in ("Send", "Retry", "Retry", "Retry"):
        page.get_by_role("button", name=name).click()
        page.wait_for_selector(".tp-answering .tp-text:not(:empty)")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Send").wait_for()
        page.wait_for_function("() => !document.querySelector('.tp-answering, .tp-waiting')")
        if page.locator(".tp-stopped").count():
            break
    assert page.locator(".tp-stopped").count() >= 1
    page.get_by_role("spinbutton", name="Longest answer").fill("8")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector(".tp-done >> nth=2")


def test_the_page_can_be_read_and_used_by_everyone(open_compare: Callable[..., Page]) -> None:
    for size, scheme in (("desktop", "dark"), ("phone", "light")):
        page = open_compare(size, scheme)
        page.get_by_role("button", name="helpdesk").click()
        page.locator("#tp-sound").get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Send").click()
        answers(page)
        shoot(page, f"compare-tiny-{size}-{scheme}")
        assert page.evaluate("document.documentElement.lang") == "en"
        assert not too_wide(page)
        assert page.get_by_role("group", name="Picture").count() == 1
        assert page.get_by_role("group", name="Recording").count() == 1
        assert page.get_by_role("article", name="ties").count() == 1
        nameless = page.evaluate(
            "[...document.querySelectorAll('#tp-main button')].filter(e => e.offsetParent)"
            ".filter(e => !(e.getAttribute('aria-label') || e.innerText || e.title).trim())"
            ".map(e => e.outerHTML.slice(0, 120))"
        )
        assert not nameless
        small = page.evaluate(
            "[...document.querySelectorAll('#tp-main button')].filter(e => e.offsetParent).filter(e => {"
            " const r = e.getBoundingClientRect(); return Math.min(r.width, r.height) < 20 && r.width > 0;"
            "}).map(e => e.outerHTML.slice(0, 120))"
        )
        assert not small
        pale = page.evaluate((HERE / "contrast.js").read_text(encoding="utf-8"))
        assert not pale


def test_light_and_dark_can_be_switched_and_are_remembered(open_compare: Callable[..., Page]) -> None:
    page = open_compare(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    night = page.evaluate(paper)
    page.get_by_role("button", name="Switch between light and dark").click()
    page.wait_for_function(f"{paper} !== '{night}'")
    day = page.evaluate(paper)
    page.reload()
    page.wait_for_selector(".tp-board")
    assert page.evaluate(paper) == day
    assert re.findall(r"\d+", day) > re.findall(r"\d+", night)

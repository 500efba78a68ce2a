"""The Train page in a real browser: a set is sent, an expert is trained by another process and compared."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.queue import Queue
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

READY = (
    "#tp-upload .tp-drop",
    "#tp-start",
    "#tp-presets",
    "#tp-known",
    "#tp-jobs .tp-soft, #tp-jobs .tp-jobs",
)


STEPS = 400  # so many short ones that a page can be closed and opened meanwhile


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train") / "runs"


@pytest.fixture(scope="module")
def app(serve_app: Callable[..., Any], runs: Path) -> Any:
    """Return an app with runs of its own."""
    return serve_app(runs=str(runs))


@pytest.fixture(scope="module")
def archive(web_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zip archive with 24 rows about pictures and recordings, and one whose picture is not there."""
    folder = Path(web_data["helpdesk"]).parent
    rows = []
    for i in range(24):
        parts: list[dict[str, str]] = [{"type": "text", "text": f"what is wrong here? look {i} times"}]
        if i % 3:
            parts.insert(0, {"type": "image", "path": f"media/cloth-{i % 3}.png"})
        else:
            parts.insert(0, {"type": "audio", "path": "media/voice-1.wav"})
        answer = {"role": "assistant", "content": f"a hole at the top, number {i}"}
        rows.append(json.dumps({"messages": [{"role": "user", "content": parts}, answer]}))
    rows.append(rows[1].replace("cloth-1", "cloth-9"))
    file = tmp_path_factory.mktemp("archive") / "cloth.zip"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("cloth/rows.jsonl", "\n".join(rows))
        for name in ("cloth-1.png", "cloth-2.png", "voice-1.wav"):
            made.write(folder / name, f"cloth/media/{name}")
    return file


def fill(page: Page, name: str, steps: int) -> None:
    """Choose the shortest way to train with so many steps, and a name."""
    page.get_by_role("button", name="More settings").click()
    page.get_by_role("spinbutton", name="Steps at most").fill(str(steps))
    page.get_by_role("textbox", name="Name of the expert").fill(name)


def test_a_set_is_sent_and_becomes_an_expert_that_is_found_in_compare(
    open_page: Callable[..., Page], axe: Callable[[Page], None], app: Any, runs: Path, archive: Path
) -> None:
    page = open_page("/train", ready=READY, app=app)
    shoot(page, "train-empty")
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("Choose a data set first.").wait_for()
    page.locator("[data-input=files]").set_input_files(archive)
    report = page.get_by_role("region", name="Check of the data")
    report.wait_for()
    tally = " ".join(report.locator(".tp-tally").inner_text().split())
    assert tally == "25 rows 22 to learn from 2 held out 1 left out"
    report.get_by_text("the medium does not exist: left out").click()
    page.wait_for_selector("#tp-report .tp-finding")
    assert "cloth-9.png" in report.locator(".tp-finding").inner_text()
    assert report.get_by_role("img", name="picture of this example").count() >= 1
    assert report.locator("audio").count() >= 1
    axe(page)
    jobs = len(Queue(runs / "queue").jobs())
    name = f"holes-seams-{jobs}"
    fill(page, f"Holes & seams {jobs}", 40)
    page.get_by_role("button", name="Start training").click()
    told = page.locator("#tp-curve p")
    told.wait_for()
    first = told.inner_text()
    shoot(page, "train-running")
    page.wait_for_function("first => document.querySelector('#tp-curve p')?.innerText !== first", arg=first)
    page.get_by_role("link", name="Find it in Compare").wait_for()
    newest = page.locator("#tp-jobs .tp-job").first
    newest.get_by_text("finished").wait_for()
    assert newest.inner_text().split("\n") == [f"Holes & seams {jobs}", "finished"]
    page.wait_for_selector("#tp-said .tp-example >> nth=1")
    page.get_by_role("button", name="The curve as a table").click()
    page.wait_for_selector("#tp-figures tbody tr >> nth=10")
    assert page.locator("#tp-figures tbody tr").last.inner_text().split()[0] == "40"
    axe(page)
    assert not too_wide(page)
    shoot(page, "train-finished")
    run = json.loads((runs / name / "run.json").read_text())
    assert (run["state"], run["metrics"]["steps"]) == ("finished", 40)
    for size, scheme in (("phone", "light"), ("desktop", "dark"), ("phone", "dark")):
        seen = open_page("/train", size=size, scheme=scheme, ready=(*READY, ".tp-find"), app=app)
        assert not too_wide(seen)
        axe(seen)
        shoot(seen, f"train-finished-{size}-{scheme}")

    page.get_by_role("link", name="Find it in Compare").click()
    chosen = page.locator("#tp-variants").get_by_role("checkbox", name=name, exact=True)
    chosen.check()
    for other in ("commands", "linear"):
        page.locator("#tp-variants").get_by_role("checkbox", name=other, exact=True).uncheck()
    page.get_by_role("textbox", name="Text").fill("what is wrong here?")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".tp-done >> nth=1")
    assert name in page.locator(".tp-panel h3").all_inner_texts()


@pytest.mark.slow
def test_a_page_that_was_closed_comes_back_to_its_training_which_stops_and_goes_on(
    open_page: Callable[..., Page], axe: Callable[[Page], None], app: Any, runs: Path, tmp_path: Path
) -> None:
    jobs = len(Queue(runs / "queue").jobs())
    title, run = f"Counting {jobs}", runs / f"counting-{jobs}"
    table = tmp_path / "numbers.csv"
    table.write_text("question,answer\n" + "".join(f"what is {i}?,{i} it is\n" for i in range(30)))
    page = open_page("/train", ready=READY, app=app)
    page.locator("[data-input=files]").set_input_files(table)
    page.get_by_role("region", name="Check of the data").wait_for()
    fill(page, title, STEPS)
    page.get_by_role("button", name="Start training").click()
    page.locator("#tp-curve p").wait_for()
    page.close()

    page = open_page("/train", ready=READY, app=app)
    assert page.locator(".tp-job[aria-pressed=true] b").inner_text() == title
    page.get_by_role("progressbar").wait_for()
    page.locator("#tp-curve p").wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped, can go on.").wait_for()
    shoot(page, "train-stopped")
    axe(page)
    stopped = json.loads((run / "last/state.json").read_text())["step"]
    assert 0 < stopped < STEPS
    page.get_by_role("button", name="Go on", exact=True).click()
    page.get_by_role("link", name="Find it in Compare").wait_for()
    assert json.loads((run / "run.json").read_text())["metrics"]["steps"] == STEPS
    log = Queue(runs / "queue").jobs()[-1].folder / "log.txt"
    assert f"going on after step {stopped} of {STEPS}" in log.read_text()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.wait_for_function("count => document.querySelectorAll('.tp-job').length === count", arg=jobs)
    assert (run / "adapter").is_dir()


def test_what_is_no_data_is_told_and_nothing_is_kept(
    open_page: Callable[..., Page], app: Any, runs: Path, tmp_path: Path
) -> None:
    page = open_page("/train", size="phone", ready=READY, app=app)
    before = sorted((runs / "data").iterdir()) if (runs / "data").is_dir() else []
    for name, text, sentence in (
        ("notes.csv", "when,who\n1,2\n", "'notes.csv' holds nothing that can be learned from"),
        ("torn.zip", "PK", "'torn.zip' is no zip archive that can be read"),
    ):
        (tmp_path / name).write_text(text)
        page.locator("[data-input=files]").set_input_files(tmp_path / name)
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
    assert not too_wide(page)
    shoot(page, "train-refused-phone")
    kept = [entry for entry in (runs / "data").iterdir() if entry.name != ".inbox"]
    assert sorted(kept) == [entry for entry in before if entry.name != ".inbox"]


def test_nothing_that_is_sent_to_everyone_names_a_set_or_a_training(app: Any, runs: Path) -> None:
    import urllib.request

    for path in ("/config", "/train"):
        with urllib.request.urlopen(app.address + path, timeout=60) as reply:
            text = reply.read().decode()
        assert "tp-train" in text or path == "/config"
        for name in ("holes-seams", "Holes &", "counting", "Counting", str(runs)):
            assert name not in text, path

"""Reports that an answer is wrong: what the Compare page takes, keeps and hides, and what learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from apps.cli import main
from apps.web.desk import Desk
from apps.web.examples import Examples
from apps.web.faults import keep_report, report_token
from apps.web.question import Question
from apps.web.rounds import Decoding, Round
from apps.web.visitors import Visitor
from studio.data import load_data
from studio.errors import DataError
from studio.store import Store
from studio.variants import Engine
from tests.apps.browsing import shoot, too_wide
from tests.apps.knocking import call, handlers, stranger

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.apps.conftest import WebApp

#: What Gradio mounts one after the other, and what fills the choice of variants.
PARTS = ("#tp-board .tp-board", "#tp-variants input:checked", "#tp-send", "#tp-sound", "#tp-picture")
ME = Visitor(name="me", group="weavers")
NAMES = ["ties", "linear"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as opened:
        yield opened


@pytest.fixture
def desk(web_variants: dict[str, Any], store: Store, tmp_path: Path) -> Desk:
    engine = Engine(web_variants["base"], web_variants["variants"])
    return Desk(engine, store, Examples(), media=tmp_path / "kept.media", runs=tmp_path / "runs")


def asked(desk: Desk, question: Question, *, blind: bool = False) -> Round:
    """Return a finished round of two variants."""
    opened = desk.open("tab", ME, question, NAMES, Decoding(max_new_tokens=4), blind=blind)
    for _ in opened.watch(every=0.0):
        pass
    return opened


def told(done: Round, place: int = 0, **more: Any) -> dict[str, Any]:
    """Return what the page sends of a report."""
    return {"token": report_token(done), "place": place, "wrong": "", "right": "", **more}


def test_a_report_is_kept_under_the_variant_and_shown_at_the_answer_alone(desk: Desk, store: Store) -> None:
    done = asked(desk, Question(text="why?"))
    assert desk.board("tab").count("This answer is wrong") == 2
    keep_report(desk, "tab", ME, told(done, 1, wrong="  a hole <b>, not a stain"))
    keep_report(desk, "tab", ME, told(done, 1, wrong="no", right="a hole'; DROP TABLE triptych_fault"))
    (fault,) = store.faults()  # the second report took the place of the first
    assert (fault.variant, fault.wrong, fault.rater, fault.rater_group) == ("linear", "no", "me", "weavers")
    assert fault.correction == "a hole'; DROP TABLE triptych_fault"
    board = desk.board("tab")
    assert board.count("This answer is wrong") == 1
    assert board.index("Reported, thank you") > board.index('data-place="1"')
    desk.vote("tab", ME, {"vote": "0", "token": done.ballot.token})  # a report does not take the verdict
    keep_report(desk, "tab", ME, told(done, 0, wrong="too short"))  # and is taken after it
    assert [fault.variant for fault in store.faults()] == ["linear", "ties"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"token": "another"}, "belongs to other answers"),
        ({"token": None}, "belongs to other answers"),
        ({"place": 2}, "no such answer"),
        ({"place": "0"}, "no such answer"),
        ({"place": True}, "no such answer"),
        ({"wrong": " ", "right": ["x"]}, "Say what is wrong"),
        ({"wrong": "n" * 2001}, "description has 2001 characters; at most 2000"),
        ({"right": "n" * 4001}, "right answer has 4001 characters; at most 4000"),
    ],
)
def test_a_forged_report_is_refused_and_nothing_is_kept(
    desk: Desk, store: Store, changed: dict[str, Any], sentence: str
) -> None:
    done = asked(desk, Question(text="why?"))
    with pytest.raises(DataError, match=sentence):
        keep_report(desk, "tab", ME, {**told(done, wrong="it is wrong"), **changed})
    with pytest.raises(DataError, match="no finished answer"):
        keep_report(desk, "another tab", ME, told(done, wrong="it is wrong"))
    with pytest.raises(DataError, match="belongs to other answers"):
        keep_report(desk, "tab", ME, {"vote": "0", "token": done.ballot.token})
    assert store.faults() == []


def test_the_answer_itself_is_no_right_answer(desk: Desk, store: Store) -> None:
    done = asked(desk, Question(text="why?"))
    with pytest.raises(DataError, match="is the answer that was given"):
        keep_report(desk, "tab", ME, told(done, right=f" {done.panels[0].text} "))


def test_a_blind_report_names_no_variant_before_the_verdict(desk: Desk, store: Store) -> None:
    done = asked(desk, Question(text="why?"), blind=True)
    keep_report(desk, "tab", ME, told(done, 0, wrong="it says nothing"))
    board = desk.board("tab")
    assert "Reported, thank you" in board
    assert not [name for name in NAMES if name in board]
    assert done.ballot.token not in report_token(done)
    assert [fault.variant for fault in store.faults()] == ["ties"]


def test_reports_become_rows_that_a_check_passes_and_a_training_learns_from(
    desk: Desk, store: Store, web_data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = load_data(Path(web_data["helpdesk"]))
    questions = [
        Question(text="What is it?", picture=one.images[0].path, sound=one.sounds[0].path) for one in samples
    ]
    for number, question in enumerate(questions):
        done = asked(desk, question)
        right = ["", "a hole", "a stain"][number]
        keep_report(desk, "tab", ME, told(done, 0, wrong="no", right=right))
        if right:
            keep_report(desk, "tab", ME, told(done, 1, right=f"{right}, top left"))
    keep_report(desk, "tab", ME, told(asked(desk, Question(text="<image>?")), right="a picture"))
    url, out = store.url, tmp_path / "reports"
    assert main(["watch", "--reports", str(out), "--store", url]) == 0
    assert "2 answered, 1 unanswered, 2 replaced, 1 unusable" in capsys.readouterr().out
    rows = load_data(out / "answered", split="train")
    assert [row.answer for row in rows] == ["a hole, top left", "a stain, top left"]
    assert rows[0].images[0].path.read_bytes() == samples[1].images[0].path.read_bytes()
    assert len(list((out / "answered" / "media").iterdir())) == 4
    text = "".join(file.read_text() for file in out.rglob("*.jsonl"))
    assert not [name for name in (*NAMES, "weavers", '"me"') if name in text]
    (row,) = load_data(out / "unanswered", split="test")
    assert (row.answer, row.images[0].path.is_file()) == ("", True)

    assert main(["check", str(out / "answered")]) == 0
    assert (
        main(["questions", "make", "open", "--data", str(out / "unanswered"), "--sets", f"{out}-sets"]) == 0
    )
    base = desk.engine.base
    config = [f"model={base}", f"data={out / 'answered'}", f"output={tmp_path / 'sft'}", "epochs=1"]
    assert main(["run", "sft", *config, "batch_size=2"]) == 0
    assert (tmp_path / "sft/adapter/adapter_config.json").is_file()
    assert main(["watch", "--reports", str(out), "--store", url]) == 2  # it is there already


def test_only_who_may_compare_may_report(closed_app: WebApp, people: dict[str, httpx.Client]) -> None:
    handler = handlers(people["mara"])["report"]
    event = {"place": 0, "token": "x", "wrong": "no"}
    with stranger(closed_app.address) as client:
        assert not call(client, handler, [], "s", event_data=event)[0]
    fine, said = call(people["mara"], handler, [], "s", event_data=event)
    assert fine
    assert "There is no finished answer to report." in said


def test_an_answer_is_reported_on_the_page(
    web_app: WebApp, open_page: Callable[..., Page], axe: Callable[[Page], None]
) -> None:
    page = open_page("/", ready=PARTS)
    page.get_by_role("textbox", name="Text").fill("what is wrong here?")
    page.click("#tp-send")
    page.wait_for_selector(".tp-fault")
    forms = page.locator(".tp-fault")
    count = forms.count()
    forms.nth(1).locator("summary").click()
    forms.nth(1).locator(".tp-wrong").fill("not sure yet")
    forms.nth(0).locator("summary").click()
    shoot(page, "faults-open")
    axe(page)
    forms.nth(0).locator(".tp-fault-send").click()
    page.wait_for_selector("text=Say what is wrong with the answer")
    forms.nth(0).locator(".tp-wrong").fill("It names a stain, but it is a hole.")
    forms.nth(0).locator(".tp-right").fill("a hole at the top right")
    forms.nth(0).locator(".tp-fault-send").click()
    page.wait_for_selector(".tp-reported")
    assert page.locator(".tp-fault").count() == count - 1
    page.wait_for_function("document.querySelector('.tp-wrong').value === 'not sure yet'")  # it is kept
    page.locator("p.tp-live[role=status]", has_text="Your report on").wait_for(state="attached")
    shoot(page, "faults-reported")
    axe(page)
    with Store(web_app.store_url) as store:
        fault = store.faults()[-1]
        assert fault.correction == "a hole at the top right"
        assert fault.variant in web_app.variants
    page.click(".tp-vote[data-vote='0']")
    page.wait_for_selector("text=Thank you, your verdict is kept")

    small = open_page("/", size="phone", scheme="dark", ready=PARTS)
    small.get_by_role("textbox", name="Text").fill("what is wrong here?")
    small.click("#tp-send")
    small.wait_for_selector(".tp-fault")
    small.locator(".tp-fault summary").first.click()
    assert too_wide(small) == 0
    shoot(small, "faults-phone-dark")
    axe(small)

"""What stands behind the Train page: what is sent, who may train, what is started and shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.utils import get_upload_folder

from apps.queue import Queue
from apps.queue.jobs import State, write_state
from apps.web.desk import Desk
from apps.web.examples import Examples
from apps.web.pages.train import ROLE
from apps.web.training import progress
from apps.web.training.acts import Acts, changes
from apps.web.training.presets import PRESETS, settings_of
from apps.web.training.received import MOST, put_in_place
from apps.web.training.report import report_html
from apps.web.training.trainings import Trainings, least_role
from apps.web.visitors import LOCAL, Refused, Visitor
from recipes import sft
from studio import config
from studio.data.intake import Taken, take_in
from studio.errors import DataError
from studio.log import QuietLog
from studio.store import Store
from studio.variants import Engine

EXPERT, ENGINEER = Visitor(name="a"), Visitor(name="b", role="engineer")
ASKED = SimpleNamespace(session_hash="tab")


@pytest.fixture
def desk(web_variants: dict[str, Any], tmp_path: Path) -> Iterator[Desk]:
    """Return a desk over the tiny base and its variants, with runs of its own."""
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        engine = Engine(web_variants["base"], web_variants["variants"])
        (tmp_path / "runs/queue").mkdir(parents=True)
        Queue(tmp_path / "runs/queue").set_limit(0)  # nothing is trained here
        yield Desk(engine, store, Examples(), runs=tmp_path / "runs")


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    """Return a set of 24 rows that is ready to be trained on."""
    folder = tmp_path / "sent"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(row(f"what is {i}?", f"{i} it is") for i in range(24)))
    return take_in(folder, tmp_path / "runs/data/numbers", None, QuietLog())


def row(asked: str, answer: str) -> str:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}) + "\n"


def sent(uploads: Path, **files: str) -> dict[str, Any]:
    """Return what the page says of files that were uploaded."""
    told = []
    for number, (place, text) in enumerate(files.items()):
        path = uploads / f"{number}-upload"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        told.append({"path": str(path), "place": place})
    return {"files": told}


def test_files_are_put_where_they_lay_on_the_visitors_machine(tmp_path: Path) -> None:
    told = sent(tmp_path / "up", **{"set/train.csv": "a", "set/media/1.png": "b"})
    assert put_in_place(told, tmp_path / "up", tmp_path / "in", QuietLog()) == "set"
    assert (tmp_path / "in/set/media/1.png").read_text() == "b"
    assert not list((tmp_path / "up").iterdir())
    told = sent(tmp_path / "up", **{"numbers.csv": "a"})
    assert put_in_place(told, tmp_path / "up", tmp_path / "one", QuietLog()) == "numbers"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("../a.csv", "is no name for a file of a set"),
        ("/etc/a.csv", "is no name for a file of a set"),
        ("a\\b.csv", "is no name for a file of a set"),
        ("a\nb.csv", "is no name for a file of a set"),
        ("", "is no name for a file of a set"),
        ("/".join("abcdefghijklmno"), "folders deep"),
        ("a.rar", "is an archive that is not read; allowed: zip"),
    ],
)
def test_places_that_are_none_are_refused(place: str, sentence: str, tmp_path: Path) -> None:
    told = sent(tmp_path / "up", **{place: "a"})
    with pytest.raises(DataError, match=sentence):
        put_in_place(told, tmp_path / "up", tmp_path / "in", QuietLog())
    assert not (tmp_path / "in").exists()


def test_forged_uploads_are_refused(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "up/link").symlink_to(tmp_path / "secret")
    for told in (None, [], {}, {"files": []}, {"files": "all"}):
        with pytest.raises(DataError, match="nothing has arrived"):
            put_in_place(told, tmp_path / "up", tmp_path / "in", QuietLog())
    places = [tmp_path / "secret", tmp_path / "up/../secret", tmp_path / "up/link", tmp_path / "up", 7, None]
    for path in [*map(str, places[:-2]), *places[-2:], f"{tmp_path}/up/a\0b"]:
        with pytest.raises(DataError, match="a file did not arrive"):
            put_in_place({"files": [{"path": path, "place": "a"}]}, tmp_path / "up", tmp_path, QuietLog())
    many = sent(tmp_path / "up", a="1")
    with pytest.raises(DataError, match="more than 3,000 files; send them as one zip archive"):
        put_in_place({"files": many["files"] * (MOST + 1)}, tmp_path / "up", tmp_path, QuietLog())
    with pytest.raises(DataError, match="have the same name"):
        put_in_place({"files": many["files"] * 2}, tmp_path / "up", tmp_path, QuietLog())
    mixed = sent(tmp_path / "up", **{"a.zip": "1", "b.csv": "2"})
    with pytest.raises(DataError, match=r"'a.zip' came with other files"):
        put_in_place(mixed, tmp_path / "up", tmp_path, QuietLog())
    assert (tmp_path / "secret").read_text() == "not yours"


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_is_a_run_that_sft_takes(
    preset: str, taken: Taken, web_variants: dict[str, Any]
) -> None:
    base = Path(web_variants["base"])
    found = settings_of(preset, taken, base, str(base), Path("out"), {"seed": 3})
    made = config.from_dict(sft.Config, found)
    sft.check(made)
    assert (made.seed, made.eval_data, made.output) == (3, str(taken.folder), Path("out"))
    assert set(made.towers) == {"llm", "projector"}


def test_a_training_is_queued_with_its_name_and_who_asked(desk: Desk, taken: Taken) -> None:
    trainings = Trainings(desk)
    made = trainings.start(ENGINEER, "  Seams,  January ", "quick", taken, {"max_steps": 6})
    assert made.job.title == "Seams, January"
    assert made.job.about["expert"] == "seams-january"
    settings = json.loads((made.folder / "settings.json").read_text())
    assert settings["max_steps"] == 6
    assert settings["output"] == str(Path(desk.runs) / "seams-january")
    assert [one.job.id for one in trainings.seen_by(ENGINEER)] == [made.job.id]
    assert trainings.start(ENGINEER, " ", "quick", taken, {}).job.title == "numbers"
    assert trainings.seen_by(EXPERT) == []
    with pytest.raises(DataError, match="not on the list"):
        trainings.of(EXPERT, made.job.id)


@pytest.mark.parametrize(
    ("title", "sentence"),
    [
        ("x" * 41, "Give the expert a name of 1 to 40 characters"),
        ("a\x07b", "Give the expert a name"),
        ("...", "needs a letter"),
        ("Ties", "There is something called 'ties' already"),
        ("queue", "There is something called 'queue' already"),
        ("there", "There is something called 'there' already"),
    ],
)
def test_names_that_will_not_do_are_told(title: Any, sentence: str, desk: Desk, taken: Taken) -> None:
    (Path(desk.runs) / "there").mkdir()
    with pytest.raises(DataError, match=sentence):
        Trainings(desk).start(ENGINEER, title, "quick", taken, {})
    assert not Queue(Path(desk.runs) / "queue").jobs()


def test_nothing_starts_without_a_set_or_with_settings_that_make_no_sense(desk: Desk, taken: Taken) -> None:
    trainings = Trainings(desk)
    with pytest.raises(DataError, match="Choose a data set first"):
        trainings.start(ENGINEER, "new", "quick", None, {})
    with pytest.raises(DataError, match="unknown way to train 'quik'; did you mean 'quick'"):
        trainings.start(ENGINEER, "new", "quik", taken, {})
    with pytest.raises(DataError, match="unknown way to train"):
        trainings.start(ENGINEER, "new", ["quick"], taken, {})
    for steps, rate, seed in (
        ("many", 0, 0),
        (-1, 0, 0),
        (0, 2, 0),
        (0, 0, -1),
        (10**9, 0, 0),
        (0, "nan", 0),
    ):
        with pytest.raises(DataError, match=r"numbers|Allowed"):
            changes(steps, rate, seed)
    assert changes(None, None, 0) == {}
    assert changes(6.0, 1e-3, 2) == {"max_steps": 6, "lr": 1e-3, "seed": 2}


def test_a_finished_expert_joins_the_engine_once_and_one_that_cannot_is_told(
    desk: Desk, taken: Taken, web_variants: dict[str, Any]
) -> None:
    trainings = Trainings(desk)
    good = trainings.start(LOCAL, "good", "quick", taken, {})
    bad = trainings.start(LOCAL, "bad", "quick", taken, {})
    (Path(desk.runs) / "good").mkdir()
    (Path(desk.runs) / "good/adapter").symlink_to(web_variants["variants"]["textiles"])
    for one in (good, bad):
        write_state(one.folder, State(name="finished", since=time.time()))
    for _ in range(2):
        trainings.join(trainings.queue.jobs())
    assert "good" in desk.engine.names
    assert "good" in desk.labels
    assert "bad" not in desk.engine.names
    assert list(trainings.apart) == [bad.job.id]


def test_an_app_goes_on_with_what_was_queued_while_it_was_closed(desk: Desk, tmp_path: Path) -> None:
    queue = Queue(Path(desk.runs) / "queue")
    words = ["domains", "names=[textiles]", "train=2", "test=1", f"output={tmp_path / 'cloth'}"]
    queue.add(title="cloth", words=words, output=tmp_path / "cloth")
    queue.set_limit(1)
    looked_after = Trainings(desk)
    end = time.monotonic() + 120
    while queue.jobs()[0].state.name != "finished":
        assert time.monotonic() < end, queue.jobs()
        time.sleep(0.2)
    assert looked_after.seen_by(EXPERT) == []
    assert [one.job.title for one in looked_after.seen_by(LOCAL)] == ["cloth"]


def test_only_those_who_may_train_reach_a_handler(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(request: Any) -> Visitor:
        asked.append("asked")
        return EXPERT

    desk._visitors = refuse
    page = Acts(desk, ROLE)
    event = SimpleNamespace(_data={"job": "0001-a", "files": []})
    calls: list[Callable[[], Any]] = [
        lambda: page.opened(ASKED),
        lambda: list(page.receive(event, ASKED)),
        lambda: list(page.choose("textiles", ASKED)),
        lambda: page.start("a", "quick", None, 1, 1, 1, ASKED),
        lambda: page.pick(event, ASKED),
        lambda: page.look("", {}, ASKED),
        lambda: page.halt("", {}, ASKED),
        lambda: page.resume("", {}, ASKED),
        lambda: page.forget("", {}, ASKED),
    ]
    for number, call in enumerate(calls, 1):
        with pytest.raises(gr.Error, match="This page is for the role engineer"):
            call()
        assert len(asked) == number
    assert least_role() == "engineer"
    monkeypatch.setenv("TRIPTYCH_EXPERTS_TRAIN", "1")
    assert least_role() == "expert"
    with pytest.raises(Refused):
        desk.admit(ASKED, "engineer")


def test_a_set_is_taken_in_by_the_page_and_its_faults_are_told(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = Acts(desk, ROLE)
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)

    def receive(text: str) -> tuple[Any, ...]:
        event = SimpleNamespace(_data=sent(uploads / "here", **{"numbers.csv": text}))
        return list(page.receive(event, ASKED))[-1]

    rows = "".join(f"what is {i}?,{i} it is\n" for i in range(5))
    report, taken, name, known = receive(f"question,answer\n{rows}lost,\n")
    assert isinstance(taken, Taken)
    assert (taken.learned, name["placeholder"]) == (5, "numbers")
    assert "1</span> nothing in the row is learned: <b>left out</b>" in report
    assert "numbers" in known["choices"]
    report, taken, *_ = receive("foo,bar\n1,2\n")
    assert taken is None
    assert 'role="alert">&#x27;numbers.csv&#x27; holds nothing that can be learned from' in report
    assert str(tmp_path) not in report
    assert str(uploads) not in report
    report, taken, name, _ = receive(f"question,answer\n{rows}")
    assert taken.folder.name == "numbers-2"
    assert "value" not in name  # the visitor may be writing there just now
    assert sorted(entry.name for entry in (Path(desk.runs) / "data").iterdir()) == [
        ".inbox", "numbers", "numbers-2",
    ]  # fmt: skip
    assert not list((Path(desk.runs) / "data/.inbox").iterdir())


def test_what_is_shown_is_text_whatever_it_holds(desk: Desk, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / f"{evil.replace('/', '')}.jsonl").write_text(row(evil, f"{evil}!") + "{\n")
    taken = take_in(folder, tmp_path / "out", None, QuietLog())
    made = Queue(tmp_path / "queue").add(
        title=evil, words=["sft"], output=tmp_path / evil, about={"expert": evil}
    )
    write_state(made.folder, State(name="failed", reason=evil))
    failed = Queue(tmp_path / "queue").job("1")
    shown = [
        report_html(evil, taken),
        progress.list_html([failed], evil),
        progress.status_html(failed, []),
    ]
    for piece in shown:
        assert evil not in piece
        assert "&lt;img" in piece


def test_progress_is_told_in_words_and_figures(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": i, "loss": 3 / i, "lr": 1e-3, "seconds": i} for i in range(1, 41)]
    rows.append({"step": 40, "eval_loss": 0.5, "seconds": 41})
    told = progress.curve_told(rows)
    assert "was 3 at step 1 and is 0.075 at step 40; on held-out examples 0.5" in told
    table = progress.table_html(rows)
    assert 10 <= table.count("<tr>") <= progress.ROWS + 1
    assert "<td>40</td><td>0.075</td><td>0.5</td>" in table
    assert progress.curve_html([]) == ""
    assert [progress.duration(s) for s in (3, 61, 120, 7200)] == [
        "5 seconds", "60 seconds", "2 minutes", "2.0 hours",
    ]  # fmt: skip
    queue = Queue(tmp_path / "queue")
    made = queue.add(title="a", words=["sft"], output=tmp_path / "run")
    write_state(made.folder, State(name="running"))
    now = time.time()
    stage = {"name": "training", "done": 10, "total": 30, "unit": "steps", "began": now - 20, "told": now}
    (made.folder / "stage.json").write_text(json.dumps(stage))
    (made.folder / "log.txt").write_text("going on after step 70 of 100\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps({"step": 80, "loss": 1.0}) + "\n")
    one = queue._all()[0]
    assert progress.steps(one) == (80, 100)
    status = progress.status_html(one, [{"step": 80, "loss": 1.0}])
    assert "Learning: 80 of 100 steps, about 40 seconds left" in status
    assert re.search(r'role="progressbar".*aria-valuenow="80"', status)

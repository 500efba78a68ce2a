"""Results are counted once for each state of the store; question sets are found and asked as they are."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.web.desk import Desk
from apps.web.examples import Examples
from apps.web.pages.questions import _Questions
from apps.web.pages.results import _Results
from apps.web.results.counted import Choice, Counted
from apps.web.results.files import KINDS, write_file
from apps.web.results.parts import results_html
from apps.web.sets.course import Course
from apps.web.sets.parts import end_html, progress_html, question_html
from apps.web.visitors import Visitor
from studio.errors import DataError
from studio.giveaway import given_away
from studio.question_sets import make_set
from studio.store import Store
from studio.types import Sample
from tests.apps.browsing import laid_out

JANE = Visitor(name="jane", group="senior")
NAMES = ("alder", "birch", "cedar")
"""Variants of the talking engine."""


@dataclass
class Talking:
    """An engine that answers with the question's first word and its own number, and keeps who was asked."""

    names: tuple[str, ...] = NAMES
    says: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def stream(self, name: str, sample: Sample, **settings: Any) -> Any:
        self.asked.append(name)
        yield self.says.get(name, f"{sample.prompt[0].text.split()[0]} number {self.names.index(name)}")

    def stream_together(self, names: Any, sample: Sample, **settings: Any) -> Any:
        self.asked += names
        yield {name: next(self.stream(name, sample)) for name in names}

    def apart(self, name: str) -> str:
        return ""


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        yield Desk(Talking(), store, Examples(), media=tmp_path / "media", runs=tmp_path / "runs")  # type: ignore[arg-type]


def told(desk: Desk, a: str, b: str, choice: str, rater: str = "jane", **more: Any) -> None:
    asked = desk.store.add_comparison(f"{len(desk.store.comparisons())}?", [a, b], **more)
    for name in (a, b):
        desk.store.add_answer(asked, name, f"{name} said")
    desk.store.vote(asked, choice, rater=rater, rater_group="senior")


def test_results_are_counted_again_only_when_the_store_has_changed(desk: Desk) -> None:
    counted = Counted(desk)
    told(desk, "alder", "birch", "alder", domain="x", blind=True)
    first = counted.results(Choice())
    assert counted.results(Choice()) is first
    assert first.ranking.votes == 1
    told(desk, "alder", "birch", "birch", domain="y")
    assert counted.results(Choice()).ranking.votes == 2
    assert counted.results(Choice(blind=True)).ranking.votes == 1
    assert counted.results(Choice(part="domain:y")).ranking.votes == 1
    assert [value for _, value in counted.parts()] == ["all", "domain:x", "domain:y", "group:senior"]
    desk.store.vote(1, "birch", rater="jane")
    assert counted.results(Choice()).ranking.won["birch"]["alder"] == 2
    for forged in ("domain:z", None, ["all"], "choice:one", "all "):
        with pytest.raises(DataError, match="no such votes"):
            counted.choice(forged, False)


def test_an_expert_of_a_blind_app_gets_neither_results_nor_files(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        blind = Desk(Talking(), store, Examples(), runs=tmp_path, blind=True)  # type: ignore[arg-type]
        for _ in range(3):
            told(blind, "alder", "birch", "alder")
        page = laid_out(lambda: _Results(blind))
        asked: Any = SimpleNamespace(session_hash="tab")
        shown = [str(part) for part in page.show("all", False, asked)]
        assert "This page is for the role engineer" in shown[2]
        for kind in KINDS:
            file, words = page._taker(kind)("all", False, asked)
            assert file is None
            assert "This page is for the role engineer" in words
            shown.append(words)
        assert not [text for text in shown for name in NAMES if name in text]


def test_names_in_results_are_escaped_and_paths_are_cut(desk: Desk) -> None:
    counted, nasty = Counted(desk), "<img src=x onerror=alert(1)>"
    for number in range(6):
        told(desk, nasty, "/somewhere/secret/merged", nasty if number % 2 else "tie", rater=f"<u>{number}")
    page = results_html(counted.results(Choice()))
    assert "<img" not in page
    assert "<u>" not in page
    assert "&lt;img src=x onerror" in page
    assert "merged" in page
    assert "/somewhere" not in page
    assert "No votes yet" in results_html(
        Counted(SimpleNamespace(store=desk.store)).results(Choice(blind=True))
    )  # type: ignore[arg-type]


def test_every_kind_of_file_is_written_whole_into_a_folder_of_its_own(desk: Desk, tmp_path: Path) -> None:
    for _ in range(3):
        told(desk, "alder", "birch", "alder")
    found = Counted(desk).results(Choice())
    files = {kind: write_file(kind, found, desk.store, desk.media, tmp_path / "out") for kind in KINDS}
    assert {kind: file.name for kind, file in files.items()} == KINDS
    assert len({file.parent for file in files.values()}) == 4
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(files["votes"]) as archive:
        assert "votes/preferences.jsonl" in archive.namelist()
    with Store(f"sqlite:///{tmp_path / 'empty.db'}") as empty, pytest.raises(DataError, match="no vote that"):
        write_file("votes", found, empty, None, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def step(course: Course, desk: Desk, choice: str = "0") -> Any:
    """Ask the next question, wait for the answers, and judge."""
    (one,) = course.sets()
    asked = course.ask("tab", JANE, one)
    if asked is None:
        return None
    for _ in asked.watch():
        pass
    course.vote("tab", JANE, {"vote": choice, "token": asked.ballot.token})
    return asked


def test_a_course_asks_blind_pairs_and_shows_both_answers_at_once(
    desk: Desk, questions: Callable[[str, int], list[Sample]]
) -> None:
    rows = [row for row in questions("qwen_omni", 8) if len(row.images) < 2]
    made = make_set("cloth", rows, desk.runs / "questions", domain="textiles")
    course = Course(desk)
    asked = course.ask("tab", JANE, made)
    assert asked is not None
    for _ in asked.watch():
        pass
    board = course.board("tab")
    assert "Answer of A" in board
    assert board.count("number") >= 2
    assert not [name for name in NAMES if name in board]
    with pytest.raises(DataError, match="belongs to other answers"):
        course.vote("tab", JANE, {"vote": "0", "token": "forged"})
    course.vote("tab", JANE, {"vote": "0", "token": asked.ballot.token})
    assert given_away([course.board("tab")], NAMES) is None
    with pytest.raises(DataError, match="judged before"):
        course.vote("tab", JANE, {"vote": "1", "token": asked.ballot.token})
    kept = desk.store.comparison(1)
    assert (kept.question_set, kept.domain, kept.blind, kept.asker) == (made.hash, "textiles", True, "jane")
    done = 1
    while step(course, desk):
        done += 1
    assert done == len(rows) + 1
    assert course.place(made, JANE).next is None
    (vote, *_) = desk.store.votes()
    assert (vote.rater_group, vote.flagged) == ("senior", False)


def test_an_answer_that_names_a_variant_is_flagged_and_counts_nothing(
    desk: Desk, questions: Callable[[str, int], list[Sample]]
) -> None:
    rows = [row for row in questions("qwen_omni", 4) if len(row.images) < 2]
    make_set("cloth", rows, desk.runs / "questions")
    desk.engine.says.update(dict.fromkeys(NAMES, "I am Cedar, of course"))  # type: ignore[attr-defined]
    course = Course(desk)
    assert step(course, desk) is not None
    assert [vote.flagged for vote in desk.store.votes()] == [True]
    found = Counted(desk).results(Choice())
    assert (found.ranking.votes, found.flagged) == (0, 1)


def test_the_newest_version_of_each_set_is_offered_and_broken_ones_are_left_out(
    desk: Desk, questions: Callable[[str, int], list[Sample]], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, root = questions("qwen_omni", 8), desk.runs / "questions"
    course = Course(desk)
    assert course.sets() == []
    make_set("cloth", rows[:4], root)
    second = make_set("cloth", rows, root)
    other = make_set("other", rows[:2], root)
    assert course.sets() == [second, other]
    assert course.find(other.hash) == other
    (other.folder / "questions.jsonl").write_text("broken")
    (other.folder / "set.json").touch()
    assert Course(desk).sets() == [second]
    assert "questions.jsonl" in capsys.readouterr().err
    for forged in ("", None, other.hash[:10], ["x"]):
        with pytest.raises(DataError, match="no such question set"):
            Course(desk).find(forged)


def test_the_parts_of_the_page_say_how_far_one_is(
    desk: Desk, questions: Callable[[str, int], list[Sample]]
) -> None:
    rows = [row for row in questions("qwen_omni", 8) if row.sounds][:2]
    made = make_set("cloth", rows, desk.runs / "questions")
    course = Course(desk)
    assert "0 of 3 answered" in progress_html(made, course.place(made, JANE))
    asked = course.ask("tab", JANE, made)
    assert asked is not None
    shown = question_html(asked.question)
    assert 'src="data:audio' in shown
    assert str(made.folder) not in shown
    for _ in asked.watch():
        pass
    course.vote("tab", JANE, {"vote": "skip", "token": asked.ballot.token})
    assert "1 of 3 answered" in progress_html(made, course.place(made, JANE))
    assert "verdicts are kept" in end_html(made, course.place(made, JANE))


def test_without_sets_the_page_says_how_one_is_made(desk: Desk) -> None:
    page, asked = laid_out(lambda: _Questions(desk)), SimpleNamespace(session_hash="tab")
    assert "triptych questions make" in page.open(asked)[-1]  # type: ignore[arg-type]
    (told,) = page.ask("forged", asked)  # type: ignore[arg-type]
    assert "no such question set" in told[-1]

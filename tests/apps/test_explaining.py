"""What the page Compare takes and shows when an answer is to be explained, without a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.web.explaining.show import explanation_html, running_html, stopped_html
from apps.web.explaining.work import FAILED, Wish, Work, read_wish
from apps.web.keep import Keeper
from apps.web.question import Question
from apps.web.rounds import Asked, Panel, Round
from apps.web.voting import Ballot, Form
from studio.errors import DataError
from studio.store import Store
from studio.variants import Engine

pytest.importorskip("captum")


@pytest.fixture
def done(tiny: Callable[[str], Path], tmp_path: Path) -> Round:
    """Return a finished blind round of three variants, of which the last failed."""
    engine = Engine(tiny("qwen_omni"), {"secret": None, "discreet": None, "gone": None})
    names = {"A": "secret", "B": "discreet", "C": "gone"}
    asked = Asked(question=Question(text="what is <b>it</b>?"), names=names, blind=True)
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        made = Round(
            engine, asked, turn=threading.Lock(), keeper=Keeper(store, "me", None), ballot=Ballot(form=Form())
        )
    made.panels = (
        Panel(name="A", state="done", text="<img src=x>"),
        Panel(name="B", state="stopped", text="no"),
        Panel(name="C", state="failed"),
    )
    made.over = True
    return made


@pytest.mark.parametrize(
    "sent",
    [
        None,
        [],
        {"answer": "0"},
        {"answer": True},
        {"answer": 2},
        {"answer": -1},
        {"answer": 0, "against": 0},
        {"answer": 0, "against": 2},
        {"answer": 0, "against": "1"},
    ],
)
def test_forged_wishes_are_refused(sent: Any, done: Round) -> None:
    with pytest.raises(DataError, match="There is no such answer to explain"):
        read_wish(sent, done)


def test_a_wish_needs_a_finished_round(done: Round) -> None:
    assert read_wish({"answer": 0, "against": None}, done) == Wish(place=0)
    assert read_wish({"answer": 1, "against": 0}, done) == Wish(place=1, against=0)
    done.over = False
    for round in (done, None):
        with pytest.raises(DataError, match="There is no finished answer to explain"):
            read_wish({"answer": 0}, round)


def test_the_work_names_no_variant_and_leaves_the_turn_free(done: Round) -> None:
    engine: Any = done._engine
    turn = threading.Lock()
    work = Work(engine, done, Wish(place=0, against=1), turn=turn, wanted=lambda: True)
    shares = list(work.watch(0.05))
    assert work.problem == ""
    assert work.found is not None
    assert max(shares) > 0
    assert turn.acquire(blocking=False)
    shown = explanation_html(work.found, work.sample, "variant A", "variant B")
    assert "secret" not in shown
    assert "discreet" not in shown
    assert "<img src=x>" not in shown
    assert "&lt;img src=x&gt;" in shown
    assert "<b>it</b>" not in shown


def test_work_that_nobody_wants_ends_and_a_failure_says_nothing_of_a_variant(
    done: Round, capsys: pytest.CaptureFixture[str]
) -> None:
    engine: Any = done._engine
    ended = Work(engine, done, Wish(place=0), turn=threading.Lock(), wanted=lambda: False)
    list(ended.watch(0.05))
    assert (ended.found, ended.problem) == (None, "")
    assert stopped_html("") == ""
    engine.remove("secret")
    failed = Work(engine, done, Wish(place=0), turn=threading.Lock(), wanted=lambda: True)
    list(failed.watch(0.05))
    assert (failed.found, failed.problem) == (None, FAILED)
    assert "secret" in capsys.readouterr().err


def test_progress_is_told_and_escaped() -> None:
    told = running_html("<i>", 0.25)
    assert 'value="0.25"' in told
    assert "<i>" not in told
    assert "comes next" in running_html("A", 0, waiting=True)

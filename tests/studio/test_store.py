"""The store: what goes in comes out, from many threads, and what cannot be right is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.errors import TriptychError
from studio.ranking import judgements
from studio.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path / 'deep' / 'kept.db'}") as opened:
        yield opened


def test_a_comparison_comes_back_with_its_answers_and_votes(store: Store) -> None:
    number = store.add_comparison(
        "Is it a hole?", ["ties", "linear"], media=["ab" * 32], seed=7, decoding={"temperature": 0.5}
    )
    store.add_answer(number, "ties", "yes", latency_ms=12.5, tokens=3)
    store.add_answer(number, "linear", "nö")
    store.vote(number, "ties", rater="r1", reasons=["exact", "short"], note="clear")
    (found,) = store.comparisons()
    assert (found.prompt, found.variants, found.media) == ("Is it a hole?", ("ties", "linear"), ("ab" * 32,))
    assert (found.seed, found.decoding) == (7, {"temperature": 0.5})
    assert [(a.variant, a.text, a.latency_ms, a.tokens) for a in found.answers] == [
        ("ties", "yes", 12.5, 3),
        ("linear", "nö", None, None),
    ]
    (vote,) = store.votes()
    assert (vote.comparison, vote.choice, vote.reasons, vote.note, vote.rater) == (
        number,
        "ties",
        ("exact", "short"),
        "clear",
        "r1",
    )
    assert vote.created.endswith("+00:00")


def test_all_that_an_expert_can_say_comes_back_and_becomes_a_judgement(store: Store) -> None:
    turns = [{"role": "user", "text": "what is it?", "media": []}, {"role": "assistant", "text": "linen"}]
    number = store.add_comparison(
        "and its colour?", ["a", "b"], turns=turns, domain="textiles", question_set="s" * 64, question="q",
        blind=True, asker="r7",
    )  # fmt: skip
    other = store.add_comparison("and its colour?", ["b", "a"], turns=turns, domain="textiles")
    more = {"scores": {"safe": 4.0}, "correction": "red", "rater_group": "senior", "seconds": 3.5}
    store.vote(number, "a", rater="r7", **more)
    store.vote(other, "b", rater="r8", flagged=True)
    store.vote(other, "tie", rater="r9")
    (found, _), (vote, *_) = store.comparisons(), store.votes()
    assert (found.turns, found.domain, found.question_set, found.question, found.blind, found.asker) == (
        tuple(turns), "textiles", "s" * 64, "q", True, "r7",
    )  # fmt: skip
    assert {name: getattr(vote, name) for name in more} == more
    one, two = judgements(store.comparisons(), store.votes())  # the flagged vote is left out
    assert (one.choice, one.group, one.domain, one.rater) == ("a", "senior", "textiles", "r7")
    assert (two.choice, two.question) == ("tie", one.question)


def test_runs_are_kept(store: Store, tmp_path: Path) -> None:
    store.add_run(tmp_path, "sft", {"lr": 1e-3}, {"loss": 0.5})
    (run,) = store.runs()
    assert (run.folder, run.recipe, run.config, run.metrics) == (
        str(tmp_path),
        "sft",
        {"lr": 1e-3},
        {"loss": 0.5},
    )


def test_a_second_verdict_of_the_same_rater_replaces_the_first(store: Store) -> None:
    number = store.add_comparison("q", ["a", "b"])
    store.vote(number, "a", rater="r1")
    store.vote(number, "tie", rater="r2")
    store.vote(number, "b", rater="r1")
    store.add_answer(number, "a", "old")
    store.add_answer(number, "a", "new")
    assert sorted((v.rater, v.choice) for v in store.votes(number)) == [("r1", "b"), ("r2", "tie")]
    assert [a.text for a in store.comparison(number).answers] == ["new"]
    assert store.votes(number + 1) == []


def test_what_is_kept_is_there_after_closing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    with Store(url) as first:
        first.add_comparison("q", ["a"])
    with Store(url) as second:
        assert [c.prompt for c in second.comparisons()] == ["q"]


def test_wrong_choices_and_numbers_are_refused_with_the_nearest_match(store: Store) -> None:
    number = store.add_comparison("q", ["linear", "ties"])
    with pytest.raises(TriptychError, match=r"unknown choice 'lineer'; did you mean 'linear'\?"):
        store.vote(number, "lineer", rater="r")
    with pytest.raises(TriptychError, match="unknown variant 'tie'; did you mean 'ties'"):
        store.add_answer(number, "tie", "text")
    with pytest.raises(TriptychError, match="there is no comparison 99"):
        store.vote(99, "ties", rater="r")
    with pytest.raises(TriptychError, match="needs different variants, got: a, a"):
        store.add_comparison("q", ["a", "a"])
    with pytest.raises(TriptychError, match="cannot be named 'skip'"):
        store.add_comparison("q", ["a", "skip"])
    assert len(store.comparisons()) == 1
    assert store.votes() == []


def test_many_threads_lose_nothing(store: Store) -> None:
    number = store.add_comparison("q", ["a", "b"])

    def work(rater: int) -> None:
        own = store.add_comparison(f"q{rater}", ["a", "b"])
        store.add_answer(own, "a", str(rater))
        store.vote(number, "a", rater=f"r{rater}")
        store.vote(number, "b", rater=f"r{rater}")
        store.comparisons()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert len(store.comparisons()) == 41
    assert sorted(v.rater for v in store.votes(number)) == sorted(f"r{i}" for i in range(40))
    assert {v.choice for v in store.votes()} == {"b"}
    assert all(c.answers[0].text == c.prompt[1:] for c in store.comparisons() if c.answers)


def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"

    def work(number: int) -> None:
        with Store(url) as opened:
            opened.add_comparison(str(number), ["a"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    with Store(url) as opened:
        assert sorted(int(c.prompt) for c in opened.comparisons()) == list(range(16))


def test_two_processes_write_to_one_file(tmp_path: Path) -> None:
    code = (
        "import sys; from studio.store import Store\n"
        "with Store(sys.argv[1]) as s:\n"
        "    for i in range(30): s.vote(s.add_comparison(f'q{i}', ['a', 'b']), 'a', rater=sys.argv[2])\n"
    )
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    running = [subprocess.Popen([sys.executable, "-c", code, url, f"r{i}"]) for i in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    with Store(url) as opened:
        assert len(opened.votes()) == 60


def test_sqlite_uses_a_write_ahead_log_and_foreign_keys(store: Store, tmp_path: Path) -> None:
    number = store.add_comparison("q", ["a"])
    store.vote(number, "a", rater="r")
    file = sqlite3.connect(tmp_path / "deep" / "kept.db")
    try:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        file.execute("PRAGMA foreign_keys = ON")
        with file:
            file.execute("DELETE FROM triptych_comparison")
    finally:
        file.close()
    assert store.votes() == []


def test_another_schema_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    Store(url).close()
    file = sqlite3.connect(tmp_path / "kept.db")
    with file:
        file.execute("UPDATE triptych_alembic SET version_num = '9'")
    file.close()
    with pytest.raises(TriptychError, match=r"has schema version 9, this program reads version 4; open it"):
        Store(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("no url", "is not an SQLAlchemy URL; allowed: sqlite:///FILE"),
        ("nonesuch://x/y", "is not an SQLAlchemy URL"),
        ("sqlite://", "one thread's memory"),
        ("sqlite:////proc/nothing/here/kept.db", "cannot be opened"),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_in_one_sentence(url: str, sentence: str) -> None:
    with pytest.raises(TriptychError, match=sentence):
        Store(url)


def test_a_file_that_is_no_database_is_told_and_a_password_is_not(tmp_path: Path) -> None:
    (tmp_path / "kept.db").write_text("this is not a database, only a text that is long enough" * 20)
    with pytest.raises(TriptychError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path / 'kept.db'}")
    with pytest.raises(TriptychError, match=r"needs the package '\w+', which is not installed") as caught:
        Store("oracle+cx_oracle://me:secret@host/db")
    assert "secret" not in str(caught.value)

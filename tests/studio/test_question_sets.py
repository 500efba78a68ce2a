"""Question sets are whole, versioned and hashed; what is changed or cannot be asked is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from apps.cli import main
from studio.errors import DataError
from studio.question_sets import find_set, find_sets, make_set, read_set, set_hash
from studio.store import Store
from studio.types import Sample, Text, Turn

Rows = Callable[[str, int], list[Sample]]


@pytest.fixture
def rows(questions: Rows) -> list[Sample]:
    """Return ten rows; those with two pictures cannot be asked."""
    return questions("qwen_omni", 10)


def test_a_set_is_whole_and_reads_back_as_it_was_made(rows: list[Sample], tmp_path: Path) -> None:
    made = make_set("cloth", rows, tmp_path, domain="textiles", source="rows.jsonl")
    asked = [row for row in rows if len(row.images) < 2]
    assert made == read_set(tmp_path / "cloth/v1")
    assert (made.title, made.source, len(made.questions)) == ("cloth v1", "rows.jsonl", len(asked))
    for one, row in zip(made.questions, asked, strict=True):
        assert one.sample.prompt[0].text == row.prompt[0].text
        assert one.sample.answer == row.answer
        assert one.domain == "textiles"
        for kept, given in zip(one.sample.images + one.sample.sounds, row.images + row.sounds, strict=True):
            assert made.folder in kept.path.parents
            assert kept.path.read_bytes() == given.path.read_bytes()
    assert made.hash == set_hash([one.id for one in made.questions][::-1])


def test_an_identity_is_what_is_asked_and_not_what_is_expected(rows: list[Sample], tmp_path: Path) -> None:
    one = rows[0]
    other = replace(one, turns=(*one.prompt, Turn(role="assistant", parts=(Text(text="else"),))), line=99)
    first, second = (make_set(name, [row], tmp_path) for name, row in (("one", one), ("other", other)))
    assert first.hash == second.hash
    asked = replace(one, turns=(Turn(role="user", parts=(*one.prompt[0].parts, Text(text="?"))),))
    assert make_set("asked", [asked], tmp_path).hash != first.hash


def test_the_same_questions_are_the_same_version_and_others_the_next(
    rows: list[Sample], tmp_path: Path
) -> None:
    first = make_set("cloth", rows[:4], tmp_path)
    assert make_set("cloth", rows[:4] + rows[:2], tmp_path) == first
    second = make_set("cloth", rows, tmp_path, count=3, seed=1)
    assert (second.version, len(second.questions)) == (2, 3)
    assert make_set("cloth", rows, tmp_path, count=3, seed=1) == second
    assert find_sets(tmp_path) == [first, second]
    assert find_set(tmp_path, "cloth") == second
    assert find_set(tmp_path, "cloth@1") == find_set(tmp_path, "cloth@v1") == first
    with pytest.raises(DataError, match="did you mean 'cloth'"):
        find_set(tmp_path, "clot")
    with pytest.raises(DataError, match="no version '7'; it has: 1, 2"):
        find_set(tmp_path, "cloth@7")


def test_a_set_that_was_changed_is_refused(rows: list[Sample], tmp_path: Path) -> None:
    made = make_set("cloth", rows[:4], tmp_path)
    file = made.folder / "questions.jsonl"
    text = file.read_text()
    file.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="was changed after it was made"):
        read_set(made.folder)
    file.write_text(text)
    picture = next((made.folder / "media").iterdir())
    picture.write_bytes(picture.read_bytes() + b"x")
    with pytest.raises(DataError, match="was changed after it was made"):
        read_set(made.folder)


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 61])
def test_a_name_that_is_no_name_is_refused(name: str, rows: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be named"):
        make_set(name, rows, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_few_questions_and_unreadable_media_leave_nothing_behind(
    rows: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="of 10 rows are different questions"):
        make_set("cloth", rows, tmp_path, count=11)
    picture = next(row for row in rows if len(row.images) == 1)
    image = replace(picture.images[0], path=tmp_path / "gone.png")
    gone = replace(picture, turns=(Turn(role="user", parts=(image,)),))
    with pytest.raises(DataError, match="cannot be read"):
        make_set("cloth", [gone], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_lists_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets, url = str(tmp_path / "sets"), f"sqlite:///{tmp_path / 'kept.db'}"
    line = ["questions", "make", "cloth", "--data", "textiles", "--count", "4", "--sets", sets]
    assert main(line) == 0
    assert "cloth v1: 4 questions" in capsys.readouterr().out
    made = find_set(tmp_path / "sets", "cloth")
    with Store(url) as store:
        for rater in ("jane", "joe"):
            asked = store.add_comparison("?", ["a", "b"], question_set=made.hash, asker=rater)
            store.vote(asked, "a", rater=rater)
        store.vote(store.add_comparison("?", ["a", "b"]), "a", rater="ann")
    assert main(["questions", "list", "--sets", sets, "--store", url, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["count"], listed["verdicts"], listed["raters"]) == (4, 2, 2)
    assert main(["questions", "show", "cloth@1", "--sets", sets, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in shown["questions"]] == [one.id for one in made.questions]
    assert all(one["domain"] == "textiles" and len(one["media"]) == 1 for one in shown["questions"])
    for wrong in (["show", "x"], ["make"], ["make", "x"], ["make", "x", "--data", "nothing"]):
        assert main(["questions", *wrong, "--sets", sets]) == 2
    assert main(["questions", "list", "--sets", str(tmp_path / "none")]) == 0
    assert "no question sets" in capsys.readouterr().out

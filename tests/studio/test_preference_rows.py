"""Votes as rows: pairs, verdicts, answers of other rows, and what is held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from studio.errors import DataError
from studio.training.preference_data import rows_of
from studio.training.preference_rows import hold_out, mismatched, verdicts, wrong_answers
from studio.types import Sample, Text, Turn
from tests.recipes.preferred import said

Questions = Callable[[str, int], list[Sample]]


def test_rows_with_right_answers_alone_get_wrong_ones_from_other_rows(
    questions: Questions,
) -> None:
    rows = questions("qwen_omni", 12)
    asked = (Turn(role="user", parts=(Text(text="which?"),)),)
    rows = [dataclasses.replace(row, turns=asked + row.turns[-1:]) for row in rows]
    made = wrong_answers(rows, seed=0)
    assert all(one.chosen[0].text == row.answer for one, row in zip(made, rows, strict=True))
    known = {row.answer for row in rows}
    assert all(one.rejected[0].text in known - {one.chosen[0].text} for one in made)
    assert wrong_answers(rows, seed=0) == made
    with pytest.raises(DataError, match="no other row answers the same question in another way"):
        wrong_answers(rows[:1], seed=0)


def test_what_is_held_out_shares_no_medium_and_no_question_with_the_rest(
    questions: Questions,
) -> None:
    rows = questions("qwen_omni", 12) * 3
    kept, out = hold_out(rows, 0.3, seed=1)
    assert out
    assert len(kept) + len(out) == len(rows)

    def media(some: list[Sample]) -> set[str]:
        paths = [part.path for row in some for part in (*row.images, *row.sounds)]
        return {str(hash(path.read_bytes())) for path in paths}

    assert not media(kept) & media(out)
    assert hold_out(rows, 0.3, seed=1) == (kept, out)
    assert hold_out(rows, 0.0, seed=1) == (rows, [])


def test_pairs_become_verdicts_and_each_question_gets_an_answer_of_another() -> None:
    asked = (Turn(role="user", parts=(Text(text="which?"),)),)
    pair = Sample(turns=asked, chosen=said("a"), rejected=said("b"), extra={"rater": "x"})
    label = Sample(turns=(*asked, *said("a")), extra={"label": True, "rater": "x"})
    bad = Sample(turns=(*asked, *said("c")), extra={"label": False, "rater": "x"})
    made = verdicts([pair, label, bad])
    assert [(item.answers[0][0].text, item.good) for item in made] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    assert [way.answer for way in mismatched(made)] == ["b", "c", "a"]
    same = verdicts([dataclasses.replace(bad, extra={"label": False, "rater": str(at)}) for at in range(3)])
    assert [way.answer for way in mismatched(same)] == ["c", "c", "c"]
    rows, places = rows_of(made, mismatched(made))
    assert [way.answer for way in rows] == ["a", "b", "c"]  # each is encoded once
    assert places == [[0, 1], [1, 2], [2, 0]]

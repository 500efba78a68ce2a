"""Pairs that differ in one thing: whether answers stay, and who loses by it."""

from __future__ import annotations

import pytest

from studio.counterfactual import counterfactual
from studio.errors import DataError


def test_flips_and_equal_answers_are_counted_by_pair() -> None:
    said = ["a", "A.", "b", "c", "x", "y"]  # the same; one right; both wrong, differently
    true = ["a", "a", "b", "b", "z", "z"]
    found = counterfactual("exact_match", said, true, list("112233"), list("rbrbrb"))
    assert (found.sets, found.left_out) == (3, 0)
    assert found.same_answer.value == pytest.approx(1 / 3)
    assert found.flips.value == pytest.approx(1 / 3)
    assert found.sides == {"b": pytest.approx(1 / 3), "r": pytest.approx(2 / 3)}


def test_a_side_that_loses_is_found_and_equal_sides_are_not() -> None:
    pairs = [str(n // 2) for n in range(120)]
    sides = ["red", "black"] * 60
    said = [
        "no" if side == "black" and int(pair) < 15 else "yes" for pair, side in zip(pairs, sides, strict=True)
    ]
    found = counterfactual("exact_match", said, ["yes"] * 120, pairs, sides)
    [contrast] = found.differences
    assert (contrast.one, contrast.other) == ("black", "red")
    assert contrast.difference.value == pytest.approx(-0.25)
    assert contrast.difference.p < 0.001
    assert contrast.difference.high < 0
    same = counterfactual("exact_match", ["yes"] * 120, ["yes"] * 120, pairs, sides)
    assert same.differences[0].difference.p == 1
    assert (same.same_answer.value, same.flips.value) == (1, 0)
    assert same.same_answer.low < 1


def test_three_sides_are_compared_two_by_two_where_both_are_there() -> None:
    sets, sides = ["1", "1", "1", "2", "2", "", "3"], ["a", "b", "c", "a", "b", "a", "a"]
    found = counterfactual("exact_match", ["yes"] * 7, ["yes"] * 7, sets, sides)
    assert (found.sets, found.left_out) == (2, 2)
    assert {(each.one, each.other): each.difference.n for each in found.differences} == {
        ("a", "b"): 2, ("a", "c"): 1, ("b", "c"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("true", "sets", "sides", "sentence"),
    [
        (["a", "b"], ["1", "1"], ["x", "y"], "the pair '1' has two references"),
        (["a", "a"], ["1", "1"], ["x", "x"], "the pair '1' has the side 'x' twice"),
        (["a", "a"], ["1", "2"], ["x", "y"], "no pair has two sides"),
    ],
)
def test_what_is_no_pair_is_said_in_one_sentence(
    true: list[str], sets: list[str], sides: list[str], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        counterfactual("exact_match", ["a", "a"], true, sets, sides)

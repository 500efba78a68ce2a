"""Answers that name their variant are found, whatever the spelling; others are left alone."""

from __future__ import annotations

import pytest

from studio.giveaway import given_away, telling_names

NAMES = telling_names(
    {"ties": "runs/merged/ties", "cloth expert": "runs/textiles_v2/adapter", "x": None},
    base="models/nano-omni",
)


def test_names_are_those_of_variants_adapters_and_the_base() -> None:
    assert sorted(NAMES) == ["cloth expert", "nano-omni", "textiles_v2", "ties"]


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("I am Nano Omni, at your service.", "nano-omni"),
        ("as NANO_OMNI I say: linen", "nano-omni"),
        ("the Cloth-Expert says wool", "cloth expert"),
        ("TEXTILES V2!", "textiles_v2"),
        ("ties", "ties"),
    ],
)
def test_a_name_in_an_answer_is_found(answer: str, name: str) -> None:
    assert given_away(["wool", answer], NAMES) == name


@pytest.mark.parametrize("answer", ["it unties", "nano", "the expert's cloth", "x", ""])
def test_what_is_not_the_whole_name_is_left_alone(answer: str) -> None:
    assert given_away([answer], NAMES) is None


def test_what_the_question_says_itself_gives_nothing_away() -> None:
    assert given_away(["two ties"], NAMES, asked="How many ties do you see?") is None

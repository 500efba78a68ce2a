"""Metrics against their definitions by hand, and against the packages that are known for them."""

from __future__ import annotations

import math

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.metrics import (
    accuracy,
    anls,
    bleu,
    box_iou,
    calibration_error,
    cer,
    chrf,
    consistency,
    distinct_2,
    factual,
    grid_iou,
    judge,
    length_error,
    perplexity,
    repetition,
    rouge_l,
)

_WORDS = st.lists(st.sampled_from(["set", "pump", "two", "to", "40", "the"]), min_size=1, max_size=8).map(
    " ".join
)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("defect: stain", 1.0),
        ("It is a Stain.", 1.0),
        ("a loose thread, not a hole", 0.0),
        ("stains", 0.0),
        ("", 0.0),
    ],
)
def test_accuracy_reads_the_label_out_of_the_sentence(answer: str, right: float) -> None:
    labels = ["stain", "thread", "loose thread", "hole"]
    assert accuracy.each([answer, "x", "x", "x"], labels)[0] == right


def test_accuracy_takes_the_longest_label_and_the_first_of_several() -> None:
    labels = ["thread", "loose thread", "hole"]
    assert accuracy.each(["a loose thread"] * 3, labels) == [0.0, 1.0, 0.0]
    assert accuracy.each(["hole or thread"] * 3, labels) == [0.0, 0.0, 1.0]


@given(st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_cer_is_that_of_jiwer(corpus: list[tuple[str, str]]) -> None:
    said, meant = [a for a, _ in corpus], [b for _, b in corpus]
    assert cer.score(said, meant) == pytest.approx(jiwer.cer(meant, said))


@given(st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_bleu_and_chrf_add_up_to_those_of_sacrebleu(corpus: list[tuple[str, str]]) -> None:
    said, meant = [a for a, _ in corpus], [b for _, b in corpus]
    for metric in (bleu, chrf):
        total = metric.sums(said, meant).sum(axis=0)
        assert metric.of_sums(total[None])[0] == pytest.approx(metric.score(said, meant))
        assert 0 <= metric.score(said, meant) <= 1


def test_the_signatures_are_those_that_sacrebleu_gives() -> None:
    import sacrebleu

    said, meant = ["set pump two to 40"], [["set pump two to 41"]]
    for kind, metric in ((sacrebleu.metrics.BLEU(), bleu), (sacrebleu.metrics.CHRF(), chrf)):
        kind.corpus_score(said, meant)
        assert str(kind.get_signature()).rsplit("|version", 1)[0] == metric.SIGNATURE


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("", "", 1.0),
        ("", "police", 0.0),
    ],
)
def test_rouge_l_counts_words_in_order(answer: str, reference: str, value: float) -> None:
    assert rouge_l.score([answer], [reference]) == pytest.approx(value)


def test_anls_forgives_single_characters_and_nothing_far_off() -> None:
    assert anls.each(["Invoice 1234"], ["invoice 1235"]) == [pytest.approx(1 - 1 / 12)]
    assert anls.each(["yes"], ["no way"]) == [0.0]


def test_boxes_are_matched_one_to_one_and_extra_ones_cost() -> None:
    assert box_iou.each(["[0, 0, 10, 10]"], ["[0, 0, 10, 20]"]) == [pytest.approx(0.5)]
    assert box_iou.each(["(10,10,0,0)"], ["[0,0,10,10]"]) == [1.0]
    two = "[0,0,10,10] and [20,20,30,30]"
    assert box_iou.each(["[20,20,30,30] [0,0,10,10]"], [two]) == [1.0]
    assert box_iou.each(["[0,0,10,10]"], [two]) == [0.5]
    assert box_iou.each([two], ["[0,0,10,10]"]) == [0.5]
    assert box_iou.each(["nothing there"], [two]) == [0.0]
    with pytest.raises(ValueError, match="reference 2 holds no box"):
        box_iou.each([two, two], [two, "somewhere"])


def test_cells_of_a_grid_overlap_as_sets() -> None:
    assert grid_iou.each(["B3 and c 3"], ["C3, D4"]) == [pytest.approx(1 / 3)]
    assert grid_iou.each(["none", "B3"], ["none", "b3"]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="no reference names a cell"):
        grid_iou.score(["B3"], ["a stain"])


def test_calibration_error_is_the_gap_between_sure_and_right() -> None:
    said, meant = ["a"] * 4, ["a", "a", "a", "b"]
    assert calibration_error.score(said, meant, confidence=[0.75] * 4) == pytest.approx(0.0)
    assert calibration_error.score(said, meant, confidence=[1.0] * 4) == pytest.approx(0.25)
    mixed = calibration_error.score(said, meant, confidence=[0.95, 0.95, 0.15, 0.15])
    assert mixed == pytest.approx(0.5 * 0.05 + 0.5 * 0.35)
    with pytest.raises(ValueError, match="4 probabilities"):
        calibration_error.score(said, meant, confidence=[2.0] * 4)


def test_perplexity_of_a_fair_choice_among_eight_is_eight() -> None:
    nats = [3 * math.log(8), 5 * math.log(8)]
    assert perplexity.score(["", ""], ["x", "y"], surprise=nats, tokens=[3, 5]) == pytest.approx(8.0)


def test_loops_and_lengths_are_seen() -> None:
    assert repetition.each(["a b c a b c", "a b"], ["", ""]) == [pytest.approx(1 - 3 / 4), 0.0]
    assert distinct_2.each(["a b a b", "a"], ["", ""]) == [pytest.approx(2 / 3), 1.0]
    assert length_error.each(["one two three", ""], ["one", "one two"]) == [2.0, 1.0]


def test_consistency_counts_agreeing_pairs_of_a_group() -> None:
    said = ["A hole.", "a hole", "a stain", "x", "y"]
    groups = ["q1", "q1", "q1", "q2", ""]
    assert consistency.score(said, said, paraphrase=groups) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no two samples share a group 'paraphrase'"):
        consistency.score(said, said, paraphrase=["1", "2", "3", "", ""])
    # Answers in other words: to one question two pairs of six agree, to one all, and one has none.
    others = [["a hole", "a stain", "A stain"], ["x."], []]
    told = consistency.counts(["A hole.", "x", "y"], [""] * 3, paraphrase=others)
    assert told == [(pytest.approx(4 / 3), 4.0), (2.0, 2.0), (0.0, 0.0)]
    assert consistency.score(["A hole.", "x", "y"], [""] * 3, paraphrase=others) == pytest.approx(10 / 18)


def test_factual_checks_numbers_codes_and_names_against_the_context() -> None:
    table = "pump XJ-9 runs at 1,200 rpm in Leeds"
    said = ["The pump XJ-9 runs at 1200 rpm in Leeds.", "The pump XJ-7 runs at 90 rpm in Hull.", "It runs."]
    assert factual.counts(said, ["", "", ""], context=[table] * 3) == [(3, 3), (0, 3), (0, 0)]
    assert factual.score(said, ["", "", ""], context=[table] * 3) == pytest.approx(0.5)
    assert factual.counts(["set lamp 9 to 55"], ["set lamp 9 to 40"], context=[""]) == [(1, 2)]


def test_a_judgement_must_be_a_probability() -> None:
    assert judge.score(["a", "b"], ["a", "a"], judgement=[1.0, 0.5]) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="from 0 to 1"):
        judge.score(["a"], ["a"], judgement=[np.nan])

"""Intervals and p-values against simulated truth, and differences of variants on the same questions."""

from __future__ import annotations

import numpy as np
import pytest

from studio.paired import holm, paired
from studio.scores import measure


def answers(right: np.ndarray) -> list[str]:
    """Return answers that are right where it says so; the reference is always ``yes``."""
    return ["yes" if hit else "no" for hit in right]


def test_the_difference_is_that_of_the_scores() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = answers(draw.random(80) < 0.8), answers(draw.random(80) < 0.6)
    true = ["yes"] * 80
    found = paired("exact_match", ours, theirs, true)
    value = measure("exact_match", ours, true).value - measure("exact_match", theirs, true).value
    assert found.value == pytest.approx(value)
    assert found.low <= found.value <= found.high
    assert (found.n, found.clusters) == (80, 80)


def test_a_clear_gain_is_shown_and_an_equal_variant_is_not() -> None:
    true = ["yes"] * 60
    good, bad = answers(np.arange(60) < 50), answers(np.arange(60) < 20)
    assert paired("exact_match", good, bad, true).better is True
    assert paired("exact_match", bad, good, true).better is False
    same = paired("exact_match", good, good, true)
    assert (same.value, same.p, same.better) == (0.0, 1.0, None)


def test_an_error_rate_that_falls_is_a_gain() -> None:
    true = ["one two three four"] * 30
    found = paired("wer", true, ["one two"] * 30, true)
    assert (found.value, found.better) == (pytest.approx(-0.5), True)


def test_whole_clusters_are_drawn_and_swapped() -> None:
    """Ten speakers of twenty equal samples are ten facts, not two hundred."""
    true, voices = ["yes"] * 200, np.repeat(np.arange(10), 20)
    ours, theirs = answers(voices < 6), answers(voices < 4)
    alone = paired("exact_match", ours, theirs, true)
    together = paired("exact_match", ours, theirs, true, clusters=[str(voice) for voice in voices])
    assert alone.better is True
    assert (together.better, together.clusters) == (None, 10)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_metric_of_the_whole_corpus_is_swapped_by_its_sums() -> None:
    pytest.importorskip("sacrebleu")
    true = [f"the pump number {n} is set to {n + 1}" for n in range(20)]
    found = paired("bleu", true, [line.replace("pump", "lamp") for line in true], true)
    assert found.better is True


def test_holm_adjusts_by_rank_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


SIZES = (50, 200, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["share", "mean", "ratio"])
def test_intervals_cover_the_truth_in_93_to_97_of_100(kind: str, n: int) -> None:
    """1,000 corpora a case, seed 0. Binomial noise of the coverage itself: about 0.7 points."""
    draw, trials, covered = np.random.default_rng(0), 1000, 0
    for trial in range(trials):
        if kind == "share":
            truth, metric = 0.7, "exact_match"
            said, meant = answers(draw.random(n) < truth), ["yes"] * n
        elif kind == "mean":
            # token F1 is 2k/(k+4) with k of 4 words said; its mean is computed from the binomial
            hits = draw.binomial(4, 0.6, n)
            said, meant = ["w x y z"[: 2 * k] for k in hits], ["w x y z"] * n
            shares = np.array([2 * k / (k + 4) for k in range(5)])
            weights = np.array([1, 4, 6, 4, 1]) * 0.6 ** np.arange(5) * 0.4 ** np.arange(4, -1, -1)
            truth, metric = float(shares @ weights), "token_f1"
        else:
            lengths = draw.integers(2, 9, n)
            words = [["w"] * size for size in lengths]
            said = [" ".join("v" if draw.random() < 0.2 else "w" for _ in row) for row in words]
            meant, truth, metric = [" ".join(row) for row in words], 0.2, "wer"
        score = measure(metric, said, meant, seed=trial)
        covered += score.low <= truth <= score.high
    assert 0.93 <= covered / trials <= 0.97, covered / trials


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_equal_variants_are_called_different_in_3_to_7_of_100(n: int) -> None:
    draw, trials, called = np.random.default_rng(0), 1000, 0
    true = ["yes"] * n
    for trial in range(trials):
        hard = draw.random(n)
        ours, theirs = draw.random(n) < hard, draw.random(n) < hard
        called += paired("exact_match", answers(ours), answers(theirs), true, seed=trial).p < 0.05
    assert 0.03 <= called / trials <= 0.07, called / trials

"""Intervals and p-values against simulated truth, and differences of variants on the same questions."""

from __future__ import annotations

from functools import cache
from math import comb, lgamma

import numpy as np
import pytest

from studio.intervals import Additive, drawn_totals, interval, normal_totals, quotient, wilson
from studio.metrics import bleu, chrf, perplexity, wer
from studio.paired import difference, holm, p_value, paired
from studio.scores import additive, measure


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
WORDS = ["set", "the", "pump", "valve", "lamp", "to", "two", "seven", "forty", "red", "a", "is"]


def draws(kind: str, draw: np.random.Generator, n: int) -> tuple[Additive, float]:
    """Return ``n`` samples' sums of a kind of metric, and the score that endless samples would have."""
    if kind == "token F1":  # 2k / (k + 4) with k of 4 words said
        table, truth = f1(draw.binomial(4, 0.6, n)), f1_truth(0.6)
    elif kind == "token F1, nearly perfect":
        table, truth = f1(draw.binomial(4, 0.92, n)), f1_truth(0.92)
    elif kind == "word errors":
        table, truth = words(draw, n, draw.beta(0.5, 2, n)), 0.2
    elif kind == "perplexity":  # nats of so many tokens, 0.7 each on average
        tokens = draw.integers(2, 12, n).astype(float)
        rows = np.stack([draw.gamma(0.7 * tokens), tokens], axis=1)
        table, truth = Additive(rows=rows, value=perplexity.of_sums), float(np.exp(0.7))
    elif kind == "speakers":  # n of them, each with own 1 to 8 samples and an own share of right ones
        sizes = draw.integers(1, 9, n)
        rows = np.stack([draw.binomial(sizes, draw.beta(2, 1, n)), sizes], axis=1).astype(float)
        table, truth = Additive(rows=rows, value=quotient), 2 / 3
    else:  # a metric of the corpus, of samples drawn from a population that is known as a whole
        metric = {"BLEU": bleu, "chrF": chrf}[kind]
        rows = population(kind)
        truth = float(metric.of_sums(rows.sum(axis=0)[None])[0])
        table = Additive(rows=rows[draw.integers(0, len(rows), n)], value=metric.of_sums)
    return table, truth


def f1(hits: np.ndarray) -> Additive:
    return Additive(rows=np.stack([2 * hits / (hits + 4), np.ones(len(hits))], axis=1), value=quotient)


def f1_truth(p: float) -> float:
    return sum(comb(4, k) * p**k * (1 - p) ** (4 - k) * 2 * k / (k + 4) for k in range(5))


def words(draw: np.random.Generator, n: int, p: np.ndarray, lengths: np.ndarray | None = None) -> Additive:
    """Return wrong words, each sample's at its own rate, and words [N, 2]."""
    sizes = draw.integers(2, 9, n) if lengths is None else lengths
    return Additive(rows=np.stack([draw.binomial(sizes, p), sizes], axis=1).astype(float), value=quotient)


@cache
def population(kind: str) -> np.ndarray:
    """Return what BLEU or chrF adds up over 150 sentences of which every fifth word is another."""
    draw = np.random.default_rng(0)
    meant = [list(draw.choice(WORDS, draw.integers(3, 10))) for _ in range(150)]
    said = [[word if draw.random() < 0.8 else draw.choice(WORDS) for word in line] for line in meant]
    metric = {"BLEU": bleu, "chrF": chrf}[kind]
    return metric.sums([" ".join(line) for line in said], [" ".join(line) for line in meant])


def test_the_interval_of_a_metric_is_that_of_its_sums() -> None:
    """So that the simulations below, which draw sums, speak of what `measure` says of texts."""
    said, meant = ["a b", "a c d", "e", "f g h i"] * 9, ["a b", "a b d", "x", "f g h j"] * 9
    table = additive(wer, said, meant)
    assert table is not None
    found = measure("wer", said, meant, seed=3)
    assert (found.low, found.high) == interval(table, 3)
    other = additive(wer, meant, meant)
    gap = paired("wer", said, meant, meant, seed=3)
    assert (gap.low, gap.high, gap.p) == (
        *interval(difference(table, other), 3),
        p_value(table, other, 3),
    )


@pytest.mark.parametrize(("n", "values"), [(1, [0.4]), (3, [1.0] * 3), (50, [0.0] * 50)])
def test_samples_that_are_all_alike_leave_room_for_what_was_missed(n: int, values: list[float]) -> None:
    rows = np.stack([np.array(values), np.ones(n)], axis=1)
    low, high = interval(Additive(rows=rows, value=quotient), 0)
    missed = wilson(0, n)[1]
    assert low == pytest.approx(values[0] * (1 - missed))
    assert high == pytest.approx(values[0] + missed * (1 - values[0]))


def test_many_samples_are_drawn_in_three_ways_that_agree() -> None:
    """One by one, by the number of equal ones, and from the normal limit: 2,000 draws of 1,200 samples."""
    draw = np.random.default_rng(0)
    few = np.stack([draw.integers(0, 4, 1200), np.ones(1200)], axis=1).astype(float)
    distinct = few + np.stack([draw.random(1200) * 1e-9, np.zeros(1200)], axis=1)
    one = drawn_totals(distinct, np.random.default_rng(1), 2000)[:, 0]
    other = drawn_totals(few, np.random.default_rng(2), 2000)[:, 0]
    third = normal_totals(few - few.mean(axis=0), np.random.default_rng(3), 2000)[:, 0] + few[:, 0].sum()
    spread = few[:, 0].std() * np.sqrt(1200)
    for totals in (one, other, third):
        assert totals.mean() == pytest.approx(few[:, 0].sum(), abs=4 * spread / np.sqrt(2000))
        assert totals.std() == pytest.approx(spread, rel=0.08)  # 5 standard errors


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("around", [0.5, 0.7, 0.9])
def test_wilsons_intervals_cover_the_truth_in_93_to_97_of_100(around: float, n: int) -> None:
    """Without simulation: the binomial probability of the counts whose interval holds the truth.

    It is that of shares within 0.05, because that of one share jumps as counts come and go: 0.9703 at exactly
    0.9 and n = 50.
    """
    counts = np.arange(n + 1)
    ends = np.array([wilson(int(k), n) for k in counts])
    ways = np.array([lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in counts])
    covered = []
    for truth in np.linspace(around - 0.05, around + 0.05, 41):
        chances = np.exp(ways + counts * np.log(truth) + (n - counts) * np.log(1 - truth))
        covered.append(chances[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum())
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "kind",
    ["token F1", "token F1, nearly perfect", "word errors", "perplexity", "speakers", "BLEU", "chrF"],
)
def test_intervals_cover_the_truth_in_93_to_97_of_100(kind: str, n: int) -> None:
    """2,000 corpora (1,000 of a thousand samples): the coverage itself is known to 0.5 (0.7) points."""
    draw, trials, covered = np.random.default_rng(0), 1000 if n == 1000 else 2000, 0
    for trial in range(trials):
        table, truth = draws(kind, draw, n)
        low, high = interval(table, trial)
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.97, covered / trials


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["share", "word errors", "speakers"])
def test_equal_variants_are_called_different_in_3_to_7_of_100(kind: str, n: int) -> None:
    """2,000 corpora: the rate itself is known to 0.5 points. The interval of the gap holds 0 as often."""
    draw, trials, called, held = np.random.default_rng(0), 2000, 0, 0
    for trial in range(trials):
        hard = draw.random(n)
        if kind == "share":
            sides = [np.stack([draw.random(n) < hard, np.ones(n)], axis=1).astype(float) for _ in range(2)]
            ours, theirs = (Additive(rows=rows, value=quotient) for rows in sides)
        elif kind == "word errors":
            lengths = draw.integers(2, 9, n)
            ours, theirs = (words(draw, n, hard / 2, lengths) for _ in range(2))
        else:
            sizes = draw.integers(1, 9, n)
            ours, theirs = (words(draw, n, hard, sizes) for _ in range(2))
        called += p_value(ours, theirs, trial) < 0.05
        if n < 1000:
            low, high = interval(difference(ours, theirs), trial)
            held += low <= 0 <= high
    assert 0.03 <= called / trials <= 0.07, called / trials
    assert n == 1000 or 0.93 <= held / trials <= 0.97, held / trials

"""Metrics against their definitions and jiwer; intervals against known figures and their promise."""

from __future__ import annotations

from types import ModuleType

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio import plugins
from studio.errors import UnknownName
from studio.metrics import exact_match, token_f1, wer
from studio.scores import bootstrap, measure, wilson

_texts = st.lists(st.sampled_from(["set", "pump", "two", "to", "40", ""]), max_size=6).map(" ".join)
_corpora = st.lists(st.tuples(_texts, _texts), min_size=1, max_size=12)


PLAIN = [
    name
    for name in plugins.names("metrics")
    if not any(hasattr(plugins.load("metrics", name), more) for more in ("NEEDS", "EXAMPLES", "sums"))
]


@pytest.mark.parametrize("name", PLAIN)
@given(_corpora)
@settings(max_examples=25, deadline=None)
def test_every_metric_of_texts_keeps_its_contract(name: str, corpus: list[tuple[str, str]]) -> None:
    metric = plugins.load("metrics", name)
    answers, references = [a for a, _ in corpus], [r for _, r in corpus]
    value = metric.score(answers, references)
    assert isinstance(value, float)
    assert isinstance(metric.HIGHER_IS_BETTER, bool)
    perfect = metric.score(references, references)
    assert perfect >= value if metric.HIGHER_IS_BETTER else perfect <= value
    if hasattr(metric, "counts"):
        over, under = map(sum, zip(*metric.counts(answers, references), strict=True))
        if under:
            assert value == pytest.approx(over / under)
    elif hasattr(metric, "each"):
        assert value == pytest.approx(np.mean(metric.each(answers, references)))


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_of_texts_refuses_unequal_or_empty_lists(name: str) -> None:
    metric = plugins.load("metrics", name)
    with pytest.raises(ValueError, match="1 predictions stand against 2 references"):
        metric.score(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one sample"):
        metric.score([], [])


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (" A  Hole,\ntop left. ", True),
        ("a hole, top left!?", True),
        ("A HOLE, TOP LEFT", True),
        ("a hole top left", False),
        ("a hole, top", False),
        ("hole, a top left", False),
        ("", False),
    ],
)
def test_exact_match_forgives_case_space_and_final_punctuation_only(answer: str, same: bool) -> None:
    assert exact_match.each([answer], ["a hole, top left"]) == [float(same)]


def test_exact_match_compares_composed_characters() -> None:
    assert exact_match.score(["Stra\u00dfe cafe\u0301"], ["STRASSE caf\u00e9"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("the red carpet", "a red carpet", 1.0),
        ("red carpet", "red cloth", 0.5),
        ("red red red", "red", 0.5),
        ("", "", 1.0),
        ("", "x", 0.0),
        ("the", "an", 1.0),
        ("Hole, top-left!", "hole topleft", 1.0),
        ("a b c d", "c d e", 2 * 2 / (3 + 3)),
    ],
)
def test_token_f1_counts_shared_words_as_squad_does(answer: str, reference: str, f1: float) -> None:
    assert token_f1.score([answer], [reference]) == pytest.approx(f1)


def test_word_error_rate_is_summed_over_the_corpus() -> None:
    answers, references = ["a c", "d e", "x y"], ["a b c", "d", "x y"]
    assert wer.counts(answers, references) == [(1, 3), (1, 1), (0, 2)]
    assert wer.score(answers, references) == pytest.approx(2 / 6)
    assert wer.each(answers, references) == pytest.approx([1 / 3, 1.0, 0.0])


def test_word_error_rate_ignores_case_and_punctuation_but_keeps_apostrophes() -> None:
    assert wer.score(["Set pump-two, please: it\u2019s 'on'."], ["set pump two please it's on"]) == 0.0
    assert wer.score(["its"], ["it's"]) == 1.0


def test_word_error_rate_of_nothing_is_zero_and_of_noise_is_one() -> None:
    assert wer.score(["", "."], ["", "..."]) == 0.0
    assert wer.each(["hm", ""], ["", ""]) == [1.0, 0.0]


@given(_corpora.filter(lambda corpus: any(r.strip() for _, r in corpus)))
@settings(max_examples=100, deadline=None)
def test_word_error_rate_equals_jiwer(corpus: list[tuple[str, str]]) -> None:
    answers, references = [a for a, _ in corpus], [r for _, r in corpus]
    assert wer.score(answers, references) == pytest.approx(jiwer.wer(references, answers))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    # 81 of 263 is Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share_and_stays_within_zero_and_one(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson(successes, n)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = generator.exponential(size=100)
        low, high = bootstrap(100, lambda rows, v=values: v[rows].mean(axis=1), seed=trial, resamples=400)
        hits += low <= 1.0 <= high
    # percentile intervals of a skewed mean at n = 100 cover a little less than 95 %
    assert 0.88 <= hits / 200 <= 0.99


def test_measure_uses_wilson_for_shares_and_is_repeatable_otherwise() -> None:
    found = measure("exact_match", ["a", "b", "c", "d"], ["a", "b", "c", "x"])
    assert (found.value, found.n) == (0.75, 4)
    assert (found.low, found.high) == wilson(3, 4)
    answers, references = ["a b", "c d", "e f", "g"], ["a b", "c x", "y z", "g"]
    for name, better in (("wer", False), ("token_f1", True)):
        first, other = measure(name, answers, references), measure(name, answers, references, seed=1)
        assert first == measure(name, answers, references)
        assert first.low <= first.value <= first.high
        assert first.higher_is_better is better
        assert first.value == other.value


def test_counting_gives_the_same_interval_as_scoring_every_draw_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, references = ["a b c", "c d", "e f", "g", ""], ["a b", "c x", "y z", "g", "h i j"]
    fast = measure("wer", answers, references)
    slow = ModuleType("slow")
    slow.score, slow.HIGHER_IS_BETTER = wer.score, False  # type: ignore[attr-defined]
    monkeypatch.setattr(plugins, "load", lambda room, name: slow)
    again = measure("wer", answers, references)
    assert (again.low, again.high) == pytest.approx((fast.low, fast.high))


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown metric 'exact_mach'; did you mean 'exact_match'"):
        measure("exact_mach", ["a"], ["a"])

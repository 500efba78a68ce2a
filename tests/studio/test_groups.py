"""Scores by group: fairlearn's figures, intervals and false alarms by simulation, groups too small."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from studio.errors import ConfigError, TriptychError
from studio.group_gaps import gap_interval, gap_p_value, part
from studio.groups import by_group, group_columns
from studio.intervals import Additive, interval
from studio.scores import measure


def answers(right: Sequence[bool] | np.ndarray) -> list[str]:
    """Return answers that are right where it says so; the reference is always ``yes``."""
    return ["yes" if hit else "no" for hit in right]


def drawn(n: int, seed: int, gap: float, names: str = "abcd") -> tuple[list[str], list[str]]:
    """Return answers right in 85 of 100, in the first group by ``gap`` less, and their groups."""
    draw = np.random.default_rng(seed)
    groups = draw.choice(list(names), n)
    return answers(draw.random(n) < np.where(groups == names[0], 0.85 - gap, 0.85)), groups.tolist()


def test_values_and_gap_are_fairlearns() -> None:
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    said, groups = drawn(300, 0, 0.2)
    sites = np.random.default_rng(1).choice(["north", "south"], 300).tolist()
    true = ["yes"] * 300
    for by in ({"accent": groups}, {"accent": groups, "site": sites}):
        theirs = MetricFrame(metrics=accuracy_score, y_true=true, y_pred=said, sensitive_features=by)
        ours = by_group("exact_match", said, true, by)
        assert ours.gap is not None
        assert ours.gap.value == pytest.approx(theirs.difference(method="between_groups"))
        assert [group.value for group in ours.groups] == pytest.approx(list(theirs.by_group))
        assert min(ours.groups, key=lambda group: group.value).name == ours.worst
        assert ours.overall.value == pytest.approx(theirs.overall)


@pytest.mark.parametrize("metric", ["wer", "token_f1", "bleu"])
def test_a_group_has_the_score_and_interval_of_its_samples_alone(metric: str) -> None:
    if metric == "bleu":
        pytest.importorskip("sacrebleu")
    true = [f"pump {n % 7} is set to {n % 5} by hand" for n in range(80)]
    said = [line.replace("hand", "wire") if n % 3 else line for n, line in enumerate(true)]
    groups = ["ab"[n % 2] for n in range(80)]
    found = by_group(metric, said, true, {"site": groups})
    for number, group in enumerate(found.groups):
        alone = measure(metric, said[number::2], true[number::2])
        assert (group.value, group.low, group.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_planted_gap_is_found_and_the_worst_group_named() -> None:
    said, groups = drawn(400, 2, 0.3)
    found = by_group("exact_match", said, ["yes"] * 400, {"accent": groups})
    assert (found.worst, found.gap.p < 0.001) == ("a", True)
    assert 0.1 < found.gap.low <= found.gap.value <= found.gap.high


def test_the_worst_group_of_an_error_rate_is_that_of_most_errors() -> None:
    said, groups = drawn(400, 2, 0.3)
    found = by_group("wer", said, ["yes"] * 400, {"accent": groups})
    assert found.worst == "a"
    assert found.gap.value > 0


def test_many_groups_always_have_a_gap_and_it_is_called_chance() -> None:
    draw = np.random.default_rng(3)
    said, groups = answers(draw.random(200) < 0.8), draw.choice([f"speaker {n}" for n in range(20)], 200)
    found = by_group("exact_match", said, ["yes"] * 200, {"speaker": groups.tolist()})
    assert found.gap.value > 0.3
    assert found.gap.p > 0.05
    assert found.gap.low == 0


def test_a_group_of_one_is_named_and_left_out_and_a_small_one_warned_of() -> None:
    said, groups = drawn(200, 4, 0.0, "ab")
    said, groups = [*said, "no", *["yes"] * 5], [*groups, "lonely", *["rare"] * 5]
    found = by_group("exact_match", said, ["yes"] * 206, {"accent": groups}, small=20)
    notes = {group.name: (group.note, group.low is None) for group in found.groups}
    assert notes == {"a": ("", False), "b": ("", False), "lonely": ("alone", True), "rare": ("few", False)}
    assert found.worst in ("a", "b")
    assert found.best == "rare"
    assert "'lonely' has one member and is left out" in found.warnings[0]
    assert found.warnings[1] == "fewer than 20 members, so their values are uncertain: 'rare' (5)"


def test_without_two_groups_of_two_there_is_no_gap() -> None:
    found = by_group("exact_match", ["yes", "no", "yes"], ["yes"] * 3, {"site": ["a", "a", "b"]})
    assert (found.gap, found.worst, found.best) == (None, None, None)


def test_groups_that_do_equally_well_are_not_told_apart() -> None:
    found = by_group("exact_match", ["no"] * 40, ["yes"] * 40, {"site": ["a", "b"] * 20})
    assert (found.gap.value, found.gap.low, found.gap.p) == (0, 0, 1)
    assert found.gap.high > 0


def test_samples_without_the_group_are_left_out_and_counted() -> None:
    found = by_group("exact_match", answers([1, 1, 0, 0, 0]), ["yes"] * 5, {"site": ["a", "a", "b", "b", ""]})
    assert (found.left_out, found.overall.n, found.overall.value) == (1, 4, 0.5)


def test_an_unknown_group_offers_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="unknown group 'acent'; did you mean 'accent'"):
        group_columns([{"accent": "a"}, {"site": "b"}], ["acent"])
    assert group_columns([{"accent": "a"}, {"site": "b"}], ["site"]) == {"site": ["", "b"]}


def test_without_fairlearn_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(TriptychError, match=r"pip install 'triptych\[fairness\]'"):
        by_group("exact_match", ["yes"] * 4, ["yes"] * 4, {"site": ["a", "a", "b", "b"]})


def test_speakers_of_an_accent_are_dealt_whole() -> None:
    """Two accents of four speakers: eight facts, however often each speaks; one speaker makes all the gap."""
    speakers = np.repeat(np.arange(8), 30)
    said, accents = answers(speakers != 0), np.where(speakers < 4, "a", "b").tolist()
    by = {"accent": accents}
    alone = by_group("exact_match", said, ["yes"] * 240, by)
    whole = by_group("exact_match", said, ["yes"] * 240, by, clusters=speakers.tolist())
    assert alone.gap.p < 0.001
    assert whole.gap.p > 0.3
    assert whole.gap.high - whole.gap.low > alone.gap.high - alone.gap.low


def test_sentences_said_in_two_accents_are_dealt_within_themselves() -> None:
    """Half of the sentences are hard for everybody; within a sentence, accent a never does better."""
    hard, worse = np.arange(60) % 2 == 0, np.arange(60) % 12 == 1
    said = [*answers(~hard & ~worse), *answers(~hard)]
    by = {"accent": ["a"] * 60 + ["b"] * 60}
    within = by_group("exact_match", said, ["yes"] * 120, by, clusters=[*range(60), *range(60)])
    assert by_group("exact_match", said, ["yes"] * 120, by).gap.p > 0.2
    assert 0.02 < within.gap.p < 0.07  # five of five: 2 / 2^5 at mid-p is 0.031


def simulated(n: int, groups: int, gap: float, trials: int, seed: int) -> tuple[float, float, float]:
    """Return how often a gap is called more than chance, and how often its interval and a group's cover."""
    draw, called, covered, own = np.random.default_rng(seed), 0, 0, 0
    truth = np.full(groups, 0.75)
    truth[0] -= gap
    for trial in range(trials):
        codes = draw.integers(0, groups, n)
        codes[: 2 * groups] = np.repeat(np.arange(groups), 2)
        hits = (draw.random(n) < truth[codes]).astype(float)
        table = Additive(
            rows=np.stack([hits, np.ones(n)], axis=1), value=lambda t: t[:, 0] / t[:, 1], share=True
        )
        parts = [part(table, np.flatnonzero(codes == code)) for code in range(groups)]
        ends = [interval(each, trial) for each in parts]
        low, high = gap_interval(parts, ends)
        called += gap_p_value(table, codes, trial) < 0.05
        covered += low <= gap <= high
        own += ends[0][0] <= truth[0] <= ends[0][1]
    return called / trials, covered / trials, own / trials


def test_without_a_gap_one_is_found_about_five_times_in_a_hundred() -> None:
    """200 draws: three standard deviations of the rate itself are 4.6 points."""
    called, covered, own = simulated(200, 4, 0.0, 200, 0)
    assert 0.004 <= called <= 0.096
    assert covered >= 0.904
    assert 0.904 <= own <= 0.996


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("n", [60, 200, 1000])
def test_false_alarms_are_3_to_7_in_a_hundred_and_intervals_cover(n: int, groups: int) -> None:
    """1,000 draws a case, seed 1. Of the gap of more than two groups the interval promises at least 95 %."""
    called, covered, own = simulated(n, groups, 0.0, 1000, 1)
    assert 0.03 <= called <= 0.07
    assert covered >= 0.93
    assert 0.92 <= own <= 0.98  # Wilson's coverage of ten samples goes up and down with the true share
    found, covered, _ = simulated(n, groups, 0.2, 1000, 2)
    assert covered >= 0.93
    assert found > (0.1, 0.3, 0.95)[(60, 200, 1000).index(n)]

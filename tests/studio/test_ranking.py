"""Votes become a ranking: planted strengths are found, intervals tell the truth, few votes are called few."""

from __future__ import annotations

import random

import numpy as np
import pytest

from studio.errors import ConfigError
from studio.ranking import Judgement, agreement, consistency, rank, ranked_by, stability

STRENGTH = {"a": 0.0, "b": 100.0, "c": 220.0, "d": -150.0}
MEAN = sum(STRENGTH.values()) / 4


def votes(count: int, seed: int, shown: int = 2, **more: str) -> list[Judgement]:
    """Return verdicts drawn from the planted strengths by Luce's choice rule."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        names = draw.sample(sorted(STRENGTH), shown)
        chances = [10 ** (STRENGTH[name] / 400) for name in names]
        made.append(Judgement(variants=tuple(names), choice=draw.choices(names, chances)[0], **more))
    return made


def test_planted_strengths_are_found_in_order_and_size() -> None:
    ranking = rank(votes(1500, 0), resamples=100)
    assert [one.variant for one in ranking.standings] == ["c", "b", "a", "d"]
    for one in ranking.standings:
        assert one.score == pytest.approx(STRENGTH[one.variant] - MEAN, abs=45)
        assert one.low < one.score < one.high
        assert one.more == 0
        assert one.wins + one.losses == one.votes
    assert ranking.won["c"]["d"] > ranking.won["d"]["c"]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = [
        one.low <= STRENGTH[one.variant] - MEAN <= one.high
        for seed in range(60)
        for one in rank(votes(150, seed), resamples=150).standings
    ]
    assert 0.88 <= np.mean(held) <= 0.99


def test_few_votes_give_wide_intervals_and_say_how_many_more() -> None:
    few, many = (rank(votes(count, 1), resamples=200) for count in (40, 400))
    wide = {one.variant: one.high - one.low for one in few.standings}
    assert all(one.more > 0 for one in few.standings)
    assert all(one.high - one.low < wide[one.variant] / 1.8 for one in many.standings)


def test_a_vote_over_four_counts_as_one_decision() -> None:
    """Three pairs of one vote taken as three votes would narrow the intervals by the root of three."""
    four = votes(120, 3, shown=4)
    pairs = [
        Judgement(variants=(one.choice, other), choice=one.choice)
        for one in four
        for other in one.variants
        if other != one.choice
    ]
    honest, naive = rank(four, resamples=300), rank(pairs, resamples=300)
    assert honest.votes == 120
    width = [sum(one.high - one.low for one in found.standings) for found in (honest, naive)]
    assert width[0] > width[1]


def test_ties_and_skips() -> None:
    even = [Judgement(variants=("a", "b"), choice=choice) for choice in ("tie", "both bad", "skip")] * 10
    ranking = rank(even)
    assert ranking.votes == 20
    assert all(one.score == pytest.approx(0, abs=1e-6) and one.ties == 20 for one in ranking.standings)
    assert ranking.won["a"]["b"] == ranking.won["b"]["a"] == 10
    assert rank([]).standings == ()
    assert rank(even[2:3]).votes == 0


def test_a_variant_that_never_lost_is_not_infinitely_good() -> None:
    ranking = rank([Judgement(variants=("a", "b"), choice="a")] * 30)
    assert ranking.standings[0].variant == "a"
    assert 200 < ranking.standings[0].score < 2000


def test_the_order_of_names_and_of_votes_changes_nothing() -> None:
    made = votes(200, 5)
    turned = [Judgement(variants=one.variants[::-1], choice=one.choice) for one in made[::-1]]
    one, other = ({s.variant: s.score for s in rank(v, resamples=10).standings} for v in (made, turned))
    assert one == pytest.approx(other, abs=0.1)


def test_rankings_by_group_keep_the_groups_apart() -> None:
    made = [
        *[Judgement(variants=("a", "b"), choice="a", group="senior")] * 30,
        *[Judgement(variants=("a", "b"), choice="b", group="junior")] * 30,
        Judgement(variants=("a", "b"), choice="b"),
    ]
    found = ranked_by(made, lambda one: one.group, resamples=50)
    assert {group: part.standings[0].variant for group, part in found.items()} == {
        "senior": "a",
        "junior": "b",
    }


def test_agreement_is_one_for_the_same_verdicts_and_none_for_chance() -> None:
    def told(choices: dict[str, str], question: int) -> list[Judgement]:
        return [
            Judgement(variants=("a", "b"), choice=choice, question=str(question), rater=rater)
            for rater, choice in choices.items()
        ]

    same = [one for q in range(30) for one in told(dict.fromkeys("xyz", "ab"[q % 2]), q)]
    alpha, low, high, questions = agreement(same) or pytest.fail("no agreement")
    assert (alpha, questions) == (pytest.approx(1.0), 30)
    assert low <= alpha <= high + 1e-9
    draw = random.Random(0)
    chance = [one for q in range(200) for one in told({r: draw.choice("ab") for r in "xyz"}, q)]
    alpha, low, high, _ = agreement(chance) or pytest.fail("no agreement")
    assert low < 0.1
    assert abs(alpha) < 0.15
    assert agreement(same[:3]) is None


def test_consistency_counts_repeated_questions() -> None:
    made = [
        Judgement(variants=("a", "b"), choice=choice, question=question, rater="x")
        for question, choice in (("1", "a"), ("2", "b"), ("1", "a"), ("2", "a"))
    ]
    assert consistency(made) == {"x": (1, 2)}


def test_stability_tells_a_clear_winner_from_a_close_race() -> None:
    clear = votes(300, 8)
    close = [Judgement(variants=("a", "b"), choice="ab"[n % 2]) for n in range(41)]
    assert stability(clear, 30) > 0.9
    assert stability(close, 20) < 0.9
    with pytest.raises(ConfigError, match="leaving out 300 of 300"):
        stability(clear, 300)


def test_a_choice_that_was_not_offered_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown choice 'c'"):
        rank([Judgement(variants=("a", "b"), choice="c")])

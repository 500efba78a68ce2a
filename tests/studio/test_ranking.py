"""Votes become a ranking: planted strengths are found, intervals tell the truth, few votes are called few."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from studio.bradley_terry import PRIOR, scores, variances
from studio.errors import ConfigError
from studio.ranking import WIDTH, Judgement, rank, ranked_by, stability

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


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shown"), [(150, 2), (400, 2), (200, 3)])
def test_intervals_hold_the_truth_in_93_to_97_of_100_cases(count: int, shown: int) -> None:
    """1,000 sets of votes (seeds 0 to 999) and 4 variants: chance moves the share by 0.4 points."""
    held = [
        one.low <= STRENGTH[one.variant] - MEAN <= one.high
        for seed in range(1000)
        for one in rank(votes(count, seed, shown), resamples=500).standings
    ]
    assert 0.93 <= np.mean(held) <= 0.97


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


def test_scores_are_those_of_evalica() -> None:
    """Its tolerance is 1e-6 of strengths that add up to 1; ours are exact."""
    import evalica

    for seed, tied in ((0, 0), (1, 30)):
        made = votes(200, seed) + [Judgement(variants=("a", "c"), choice="tie")] * tied
        xs = [one.variants[0] for one in made] + [a for a, _ in combinations("abcd", 2)]
        ys = [one.variants[1] for one in made] + [b for _, b in combinations("abcd", 2)]
        kinds = {"tie": evalica.Winner.Draw}
        winners = [
            kinds.get(one.choice, evalica.Winner.X if one.choice == one.variants[0] else evalica.Winner.Y)
            for one in made
        ] + [evalica.Winner.Draw] * 6
        weights = [1.0] * len(made) + [PRIOR] * 6
        peer = evalica.bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-12, limit=100_000).scores
        theirs = 400 * np.log10(peer.loc[list("abcd")].to_numpy())
        ours = {one.variant: one.score for one in rank(made, resamples=1).standings}
        assert [ours[name] for name in "abcd"] == pytest.approx(list(theirs - theirs.mean()), abs=1e-3)


def test_the_spread_of_scores_is_that_of_many_samples() -> None:
    won = np.zeros((4, 4))
    for one in votes(600, 4):
        loser = next(name for name in one.variants if name != one.choice)
        won["abcd".index(one.choice), "abcd".index(loser)] += 1
    found = scores(won)
    spread = variances(found, won + won.T)
    draws = np.random.default_rng(0).multinomial(600, won.ravel() / 600, 2000).reshape(-1, 4, 4)
    drawn = scores(draws)
    for a, b in combinations(range(4), 2):
        assert spread[a, b] == pytest.approx((drawn[:, a] - drawn[:, b]).var(), rel=0.15)
    nothing = variances(np.zeros(3), np.zeros((3, 3)))
    assert nothing[0, 1] > 10 * spread.max()
    assert nothing[0, 0] == 0


def test_a_repeat_of_a_question_counts_once() -> None:
    first = [Judgement(variants=("a", "b"), choice="a", question=str(n), rater="x") for n in range(30)]
    again = [
        Judgement(variants=("b", "a"), choice="b", question=one.question, rater="x") for one in first[:10]
    ]
    assert rank(first + again, resamples=20) == rank(first, resamples=20)
    other = [Judgement(variants=("b", "a"), choice="b", question="1", rater="y")]
    assert rank(first + other, resamples=20).votes == 31


def test_wide_intervals_that_meet_no_other_need_no_more_votes() -> None:
    apart = [Judgement(variants=("a", "b"), choice="a" if n % 15 else "b") for n in range(30)]
    ranking = rank(apart)
    assert all(one.high - one.low > WIDTH and one.more == 0 for one in ranking.standings)


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


def test_stability_tells_a_clear_winner_from_a_close_race() -> None:
    clear = votes(300, 8)
    close = [Judgement(variants=("a", "b"), choice="ab"[n % 2]) for n in range(41)]
    kept = stability(clear, 30)
    assert kept.first >= kept.order > 0.9
    assert stability(close, 20).first < 0.9
    with pytest.raises(ConfigError, match="leaving out 300 of 300"):
        stability(clear, 300)


def test_a_choice_that_was_not_offered_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown choice 'c'"):
        rank([Judgement(variants=("a", "b"), choice="c")])

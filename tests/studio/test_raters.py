"""How people judge: who agrees with whom and with themselves, who prefers a side, who stands out."""

from __future__ import annotations

import random

import pytest

from studio.ranking import Judgement
from studio.raters import agreement, consistency, raters, sides, wilson

STRENGTH = {"a": 0.0, "b": 120.0, "c": 260.0}


def judged(rater: str, count: int, seed: int, *, care: float = 1.0, repeats: int = 0) -> list[Judgement]:
    """Return a rater's verdicts on planted strengths; one who does not ``care`` decides by a coin.

    A careful rater keeps to a verdict when asked again in 9 of 10 cases.
    """
    draw = random.Random(seed)

    def once(pair: tuple[str, str]) -> str:
        chance = 1 / (1 + 10 ** ((STRENGTH[pair[1]] - STRENGTH[pair[0]]) / 400))
        return pair[0] if draw.random() < care * chance + (1 - care) / 2 else pair[1]

    made = []
    for number in range(count):
        one, other = draw.sample(sorted(STRENGTH), 2)
        made.append(
            Judgement(variants=(one, other), choice=once((one, other)), question=f"{number}", rater=rater)
        )
    for first in made[:repeats]:
        swapped = first.variants[::-1]
        again = (
            first.choice if draw.random() < 0.9 * care + (1 - care) / 2 else once((swapped[0], swapped[1]))
        )
        made.append(Judgement(variants=swapped, choice=again, question=first.question, rater=rater))
    return made


def told(choices: dict[str, str], question: int) -> list[Judgement]:
    return [
        Judgement(variants=("a", "b"), choice=choice, question=str(question), rater=rater)
        for rater, choice in choices.items()
    ]


def test_agreement_is_one_for_the_same_verdicts_and_none_for_chance() -> None:
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


def test_consistency_counts_repeated_questions_and_no_skips() -> None:
    made = [
        Judgement(variants=("a", "b"), choice=choice, question=question, rater="x")
        for question, choice in (("1", "a"), ("2", "b"), ("1", "a"), ("2", "a"), ("3", "a"), ("3", "skip"))
    ]
    assert consistency(made) == {"x": (1, 2)}


def test_a_careless_rater_among_careful_ones_stands_out() -> None:
    for seed in range(6):
        made = [one for r in range(6) for one in judged(f"careful {r}", 120, 100 * seed + r, repeats=24)]
        made += judged("careless", 120, 7000 + seed, care=0.0, repeats=24)
        found = {one.rater: one for one in raters(made)}
        assert {name for name, one in found.items() if one.doubt} == {"careless"}, seed
        assert found["careless"].repeats == 24
        assert found["careless"].votes == 120


def test_a_rater_who_turns_the_verdicts_round_is_steady_and_stands_out() -> None:
    made = [one for r in range(4) for one in judged(f"careful {r}", 150, r, repeats=15)]
    made += [
        Judgement(
            variants=one.variants,
            choice=next(name for name in one.variants if name != one.choice),
            question=one.question,
            rater="contrary",
        )
        for one in judged("contrary", 150, 50)
    ]
    found = {one.rater: one for one in raters(made)}
    assert "sided with the others in" in found["contrary"].doubt
    assert not any(one.doubt for name, one in found.items() if name != "contrary")


def test_who_always_takes_the_left_answer_shows_in_the_sides() -> None:
    draw = random.Random(2)
    pairs = [tuple(draw.sample("abc", 2)) for _ in range(200)]
    left = [Judgement(variants=pair, choice=pair[0 if n % 4 else 1]) for n, pair in enumerate(pairs)]
    (one,) = sides(left)
    assert (one.shown, one.place, one.best, one.decided) == (2, 0, 150, 200)
    assert one.low > 0.5
    three = [Judgement(variants=("a", "b", "c"), choice="abc"[n % 3]) for n in range(90)]
    assert [(side.place, side.share) for side in sides(three)] == [(0, 1 / 3), (1, 1 / 3), (2, 1 / 3)]
    assert sides([Judgement(variants=("a", "b"), choice="tie")]) == []


def test_the_interval_of_a_share() -> None:
    """Wilson's interval of 15 in 20, as tables give it."""
    assert wilson(15, 20) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-12)

"""Who is better, from votes: Bradley-Terry scores with intervals, a win matrix, agreement and stability.

A vote for one of k answers says that it beat the k - 1 others; "tie" and "both bad" say that all are equal,
"skip" says nothing. Intervals come from resampling whole votes: the pairs of one vote are one person's one
decision, and counting them as independent would make intervals too narrow.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from studio.errors import ConfigError, unknown
from studio.kept import VERDICTS, Comparison, Vote

TIES = ("tie", "both bad")
#: An interval at most this wide, in Elo, says "enough": 100 apart, 64 of 100 votes prefer the better.
WIDTH = 150.0
#: Below so many votes on a variant no interval is believed.
LEAST = 20
#: Every pair is given so much of a tie, or a variant that never lost would be infinitely good.
PRIOR = 0.5


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One verdict on answers to one question.

    ``choice`` is the best variant or one of `studio.kept.VERDICTS`; ``question`` is the same for all who
    were asked the same of the same variants; ``rater`` is a pseudonym and ``group`` what kind of rater.
    """

    variants: tuple[str, ...]
    choice: str
    question: str = ""
    rater: str = ""
    group: str = ""
    domain: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One variant's place: score and 95 % interval in Elo (0 is the mean of all), and its record in pairs.

    ``votes`` counts the verdicts on it; ``more`` is about how many more make its interval narrow enough,
    0 if it is.
    """

    variant: str
    score: float
    low: float
    high: float
    votes: int
    wins: int
    ties: int
    losses: int
    more: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Variants sorted by the lower end of their intervals; ``won[a][b]`` counts a over b, ties as halves."""

    standings: tuple[Standing, ...]
    won: Mapping[str, Mapping[str, float]]
    votes: int


def judgements(comparisons: Iterable[Comparison], votes: Iterable[Vote]) -> list[Judgement]:
    """Return the verdicts of a store, oldest first, without those that are flagged.

    A question is the same as another when its words, media, conversation and variants are.
    """
    asked = {one.id: one for one in comparisons}
    found = []
    for vote in votes:
        of = asked.get(vote.comparison)
        if of is None or vote.flagged:
            continue
        same = json.dumps([of.prompt, of.media, of.turns, sorted(of.variants)], sort_keys=True)
        found.append(
            Judgement(
                variants=of.variants,
                choice=vote.choice,
                question=hashlib.sha256(same.encode()).hexdigest(),
                rater=vote.rater,
                group=vote.rater_group,
                domain=of.domain,
            )
        )
    return found


def rank(judgements: Iterable[Judgement], *, seed: int = 0, resamples: int = 1000) -> Ranking:
    """Return the ranking that verdicts give (Bradley and Terry 1952, Biometrika 39, 324).

    Raises `ConfigError` for a choice that was not offered.
    """
    told = _telling(judgements)
    names = sorted({name for one in told for name in one.variants})
    if len(names) < 2:
        return Ranking(standings=(), won={}, votes=0)
    pairs = _Pairs(told, names)
    score = pairs.elo(np.ones(len(told)))
    draws = np.random.default_rng(seed)
    samples = np.stack(
        [pairs.elo(draws.multinomial(len(told), [1 / len(told)] * len(told))) for _ in range(resamples)]
    )
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    standings = [
        Standing(
            variant=name,
            score=float(score[at]),
            low=float(low[at]),
            high=float(high[at]),
            votes=(votes := sum(name in one.variants for one in told)),
            wins=int(pairs.wins[at].sum()),
            ties=int(pairs.ties[at].sum()),
            losses=int(pairs.wins[:, at].sum()),
            more=_more(votes, float(high[at] - low[at])),
        )
        for at, name in enumerate(names)
    ]
    half = pairs.wins + pairs.ties / 2
    won = {a: {b: float(half[i, j]) for j, b in enumerate(names) if a != b} for i, a in enumerate(names)}
    standings.sort(key=lambda one: (-one.low, one.variant))
    return Ranking(standings=tuple(standings), won=won, votes=len(told))


def ranked_by(
    judgements: Sequence[Judgement], key: Callable[[Judgement], str], **settings: Any
) -> dict[str, Ranking]:
    """Return a ranking for each value of ``key`` that is not empty, as domains or groups of raters."""
    parts: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        if value := key(one):
            parts[value].append(one)
    return {value: rank(part, **settings) for value, part in sorted(parts.items())}


def agreement(judgements: Iterable[Judgement], *, seed: int = 0) -> tuple[float, float, float, int] | None:
    """Return Krippendorff's nominal alpha of raters' choices, its 95 % interval, and on how many questions.

    1 is perfect agreement, 0 what chance gives. None unless two questions were judged by two raters each,
    with two different verdicts among them. Of a rater's verdicts on one question the last counts.
    """
    import evalica
    import pandas as pd

    table: dict[str, dict[str, str]] = defaultdict(dict)
    for one in judgements:
        if one.choice != "skip" and one.question and one.rater:
            table[one.question][one.rater] = one.choice
    units = {question: votes for question, votes in table.items() if len(votes) > 1}
    kinds = sorted({choice for votes in units.values() for choice in votes.values()})
    if len(units) < 2 or len(kinds) < 2:
        return None
    codes = {question: {r: float(kinds.index(c)) for r, c in v.items()} for question, v in units.items()}
    frame = pd.DataFrame(codes)
    found = evalica.alpha_bootstrap(frame, "nominal", n_resamples=1000, random_state=seed)
    return float(found.alpha), float(found.low), float(found.high), len(units)


def consistency(judgements: Iterable[Judgement]) -> dict[str, tuple[int, int]]:
    """Return rater -> (same, repeats): how often a question that was asked again got the same verdict."""
    seen: dict[tuple[str, str], str] = {}
    found: dict[str, tuple[int, int]] = {}
    for one in judgements:
        key = one.rater, one.question
        if key in seen:
            same, repeats = found.get(one.rater, (0, 0))
            found[one.rater] = same + (seen[key] == one.choice), repeats + 1
        seen.setdefault(key, one.choice)
    return found


def stability(judgements: Iterable[Judgement], leave_out: int, *, seed: int = 0, tries: int = 200) -> float:
    """Return how often the same variant is first when ``leave_out`` votes, drawn at random, are left out.

    Raises `ConfigError` if that leaves none.
    """
    told = _telling(judgements)
    if not 0 < leave_out < len(told):
        raise ConfigError(f"leaving out {leave_out} of {len(told)} votes tells nothing; allowed: 1 and more")
    pairs = _Pairs(told, sorted({name for one in told for name in one.variants}))
    first = int(pairs.elo(np.ones(len(told))).argmax())
    draws = np.random.default_rng(seed)
    same = 0
    for _ in range(tries):
        kept = np.ones(len(told))
        kept[draws.choice(len(told), leave_out, replace=False)] = 0
        same += int(pairs.elo(kept).argmax()) == first
    return same / tries


def _telling(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Return the verdicts that say something."""
    told = []
    for one in judgements:
        if one.choice not in (*one.variants, *VERDICTS):
            raise ConfigError(unknown("choice", one.choice, [*one.variants, *VERDICTS]))
        if one.choice != "skip" and len(one.variants) > 1:
            told.append(one)
    return told


class _Pairs:
    """The pairs that verdicts stand for, and the scores they give under any weights of the verdicts."""

    def __init__(self, told: Sequence[Judgement], names: Sequence[str]) -> None:
        place = {name: at for at, name in enumerate(names)}
        self._votes: list[int] = []
        self._pairs: list[tuple[int, int, bool]] = []
        for number, one in enumerate(told):
            if one.choice in TIES:
                found = [(place[a], place[b], True) for a, b in combinations(one.variants, 2)]
            else:
                best = place[one.choice]
                found = [(best, place[other], False) for other in one.variants if other != one.choice]
            self._votes += [number] * len(found)
            self._pairs += found
        size = len(names)
        self.wins, self.ties = np.zeros((size, size)), np.zeros((size, size))
        for a, b, tie in self._pairs:
            if tie:
                self.ties[a, b] += 1
                self.ties[b, a] += 1
            else:
                self.wins[a, b] += 1
        self._size = size
        self._a, self._b, self._tie = (np.array(column) for column in zip(*self._pairs, strict=True))

    def elo(self, weights: Any) -> Any:
        """Return the scores [variants] in Elo, their mean 0, with verdict i counted ``weights[i]`` times.

        Solved by `evalica` with Newman's iteration (Newman 2023, JMLR 24, 1, equation 10).
        """
        import evalica

        each = np.asarray(weights, dtype=float)[self._votes]
        prior = list(combinations(range(self._size), 2))
        xs = [*self._a.tolist(), *(a for a, _ in prior)]
        ys = [*self._b.tolist(), *(b for _, b in prior)]
        winner = [evalica.Winner.Draw if tie else evalica.Winner.X for tie in self._tie.tolist()]
        found = evalica.bradley_terry(
            xs, ys, [*winner, *[evalica.Winner.Draw] * len(prior)],
            weights=[*each.tolist(), *[PRIOR] * len(prior)],
        )  # fmt: skip
        scores = 400 * np.log10(np.maximum(found.scores.loc[list(range(self._size))].to_numpy(), 1e-12))
        return scores - scores.mean()


def _more(votes: int, width: float) -> int:
    """Return how many more votes narrow an interval to `WIDTH`: it shrinks with the root of their number."""
    wanted = max(LEAST, math.ceil(votes * (width / WIDTH) ** 2))
    return max(0, wanted - votes)

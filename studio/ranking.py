"""Who is better, from votes: Bradley-Terry scores with intervals, a win matrix, and stability.

A vote for one of k answers says that it beat the k - 1 others; "tie" and "both bad" say that all are equal,
"skip" says nothing. Intervals come from resampling whole votes: the pairs of one vote are one person's one
decision, and counting them as independent would make intervals too narrow. For the same reason a question
that a rater was asked again, with the same answers, counts once: the repeat measures the rater
(`studio.raters.consistency`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from studio.bradley_terry import Array, scores
from studio.errors import ConfigError, unknown
from studio.kept import VERDICTS, Comparison, Vote

Counts = npt.NDArray[np.int64]
TIES = ("tie", "both bad")
#: An interval at most this wide, in Elo, says "enough": 100 apart, 64 of 100 votes prefer the better.
WIDTH = 150.0
#: Below so many votes on a variant no interval is believed.
LEAST = 20


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One verdict on answers to one question.

    ``variants`` stand as they were shown, ``choice`` is the best of them or one of `studio.kept.VERDICTS`;
    ``question`` is the same for all who read the same answers to the same question; ``rater`` is a pseudonym
    and ``group`` what kind of rater; ``blind`` says that no names were shown.
    """

    variants: tuple[str, ...]
    choice: str
    question: str = ""
    rater: str = ""
    group: str = ""
    domain: str = ""
    blind: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One variant's place: score and 95 % interval in Elo (0 is the mean of all), and its record in pairs.

    ``votes`` counts the verdicts on it; ``more`` is about how many more its interval needs, 0 if it is
    narrow enough, or meets no other variant's.
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


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Shares of refits without ``left_out`` votes that keep the ``first`` variant and the ``order``."""

    left_out: int
    first: float
    order: float


def judgements(comparisons: Iterable[Comparison], votes: Iterable[Vote]) -> list[Judgement]:
    """Return the verdicts of a store, oldest first, without those that are flagged.

    A question is the same as another when its words, media and conversation are, and the same variants gave
    the same answers.
    """
    asked = {one.id: one for one in comparisons}
    known: dict[int, str] = {}
    found = []
    for vote in votes:
        of = asked.get(vote.comparison)
        if of is None or vote.flagged:
            continue
        if of.id not in known:
            said = sorted((answer.variant, answer.text) for answer in of.answers)
            same = json.dumps([of.prompt, of.media, of.turns, sorted(of.variants), said], sort_keys=True)
            known[of.id] = hashlib.sha256(same.encode()).hexdigest()
        found.append(
            Judgement(
                variants=of.variants,
                choice=vote.choice,
                question=known[of.id],
                rater=vote.rater,
                group=vote.rater_group,
                domain=of.domain,
                blind=of.blind,
            )
        )
    return found


def rank(judgements: Iterable[Judgement], *, seed: int = 0, resamples: int = 1000) -> Ranking:
    """Return the ranking that verdicts give, with percentile intervals of ``resamples`` bootstrap samples.

    Bradley and Terry 1952, Biometrika 39, 324; Efron 1979, Annals of Statistics 7, 1.

    Raises `ConfigError` for a choice that was not offered.
    """
    tally = _Tally(telling(judgements))
    names = tally.names
    if len(names) < 2:
        return Ranking(standings=(), won={}, votes=0)
    won = tally.won(tally.counts)
    score = scores(won)
    drawn = np.random.default_rng(seed).multinomial(tally.votes, tally.counts / tally.votes, resamples)
    low, high = np.percentile(scores(tally.won(drawn)), [2.5, 97.5], axis=0)
    wins, ties = tally.pairs(tally.beaten), tally.pairs(tally.tied)
    shown = tally.counts @ tally.shown
    standings = [
        Standing(
            variant=name,
            score=float(score[at]),
            low=float(low[at]),
            high=float(high[at]),
            votes=int(shown[at]),
            wins=int(wins[at].sum()),
            ties=int(ties[at].sum()),
            losses=int(wins[:, at].sum()),
            more=_more(at, low, high, int(shown[at])),
        )
        for at, name in enumerate(names)
    ]
    told = {a: {b: float(won[i, j]) for j, b in enumerate(names) if a != b} for i, a in enumerate(names)}
    standings.sort(key=lambda one: (-one.low, one.variant))
    return Ranking(standings=tuple(standings), won=told, votes=tally.votes)


def ranked_by(
    judgements: Sequence[Judgement],
    key: Callable[[Judgement], str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Ranking]:
    """Return a ranking for each value of ``key`` that is not empty, as domains or groups of raters."""
    parts: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        if value := key(one):
            parts[value].append(one)
    return {value: rank(part, seed=seed, resamples=resamples) for value, part in sorted(parts.items())}


def stability(
    judgements: Iterable[Judgement], leave_out: int, *, seed: int = 0, tries: int = 1000
) -> Stability:
    """Return how often the ranking stays as it is when ``leave_out`` votes, drawn at random, are left out.

    Raises `ConfigError` if that leaves none.
    """
    tally = _Tally(telling(judgements))
    if not 0 < leave_out < tally.votes:
        raise ConfigError(
            f"leaving out {leave_out} of {tally.votes} votes tells nothing; allowed: 1 and more"
        )
    order = np.argsort(-scores(tally.won(tally.counts)), kind="stable")
    draws = np.random.default_rng(seed)
    kept = draws.multivariate_hypergeometric(tally.counts, tally.votes - leave_out, tries)
    orders = np.argsort(-scores(tally.won(kept)), axis=-1, kind="stable")
    same = orders == order
    return Stability(left_out=leave_out, first=float(same[:, 0].mean()), order=float(same.all(axis=1).mean()))


def telling(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Return the verdicts that say something, of a rater's on the same question and answers the first.

    Raises `ConfigError` for a choice that was not offered.
    """
    told, seen = [], set()
    for one in judgements:
        if one.choice not in (*one.variants, *VERDICTS):
            raise ConfigError(unknown("choice", one.choice, [*one.variants, *VERDICTS]))
        if one.choice == "skip" or len(one.variants) < 2:
            continue
        key = one.rater, one.question
        if all(key):
            if key in seen:
                continue
            seen.add(key)
        told.append(one)
    return told


class _Tally:
    """Verdicts counted by what they say: T kinds of verdict over V variants.

    Votes that say the same are exchangeable, so that resampling votes is drawing counts of kinds.
    """

    def __init__(self, told: Sequence[Judgement]) -> None:
        kinds = Counter((tuple(sorted(one.variants)), one.choice) for one in told)
        listed = sorted(kinds.items())
        self.names = sorted({name for (variants, _), _ in listed for name in variants})
        place = {name: at for at, name in enumerate(self.names)}
        self.counts = np.array([count for _, count in listed], dtype=np.int64)
        self.votes = int(self.counts.sum())
        size = len(self.names)
        self.beaten, self.tied = (np.zeros((len(listed), size, size)) for _ in range(2))
        self.shown = np.zeros((len(listed), size))
        for kind, ((variants, choice), _) in enumerate(listed):
            places = [place[name] for name in variants]
            self.shown[kind, places] = 1
            for a, b in combinations(places, 2):
                if choice in TIES:
                    self.tied[kind, a, b] = self.tied[kind, b, a] = 1
                elif place[choice] in (a, b):
                    self.beaten[kind, place[choice], a + b - place[choice]] = 1

    def pairs(self, of: Array) -> Array:
        """Return the sums [V, V] of what each kind of verdict says of pairs [T, V, V]."""
        found: Array = np.tensordot(self.counts, of, 1)
        return found

    def won(self, counts: Counts) -> Array:
        """Return wins and half the ties [..., V, V] of samples with ``counts`` [..., T] of each kind."""
        found: Array = np.tensordot(counts, self.beaten + self.tied / 2, 1)
        return found


def _more(at: int, low: Array, high: Array, votes: int) -> int:
    """Return how many more votes narrow an interval to `WIDTH`: it shrinks with the root of their number."""
    met = sum(low <= high[at]) + sum(high >= low[at]) - len(low) > 1
    width = float(high[at] - low[at])
    wanted = math.ceil(votes * (width / WIDTH) ** 2) if met else 0
    return max(0, max(wanted, LEAST) - votes)

"""How people judge: agreement with each other and with themselves, sides that they prefer, who stands out."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from studio.bradley_terry import ELO, scores
from studio.ranking import TIES, Judgement, telling
from studio.scores import wilson as wilson_of

#: One-sided chance of an error at which a rater is told to stand out, shared by all raters and both tests.
ERROR = 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """How often the answer at one place (0 is the left or first) of ``shown`` was best, where one was.

    ``low`` and ``high`` are the share's 95 % interval; without bias it is 1 / ``shown``.
    """

    shown: int
    place: int
    best: int
    decided: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share, from 0 to 1."""
        return self.best / self.decided


@dataclass(frozen=True, kw_only=True)
class Rater:
    """One rater's record.

    ``same`` of ``repeats`` questions got the same verdict when asked again. Of ``decided`` pairs the rater
    preferred the variant that all others' votes put first in ``usual``, where ``expected`` were due.
    ``doubt`` says in words why this rater stands out, or nothing.
    """

    rater: str
    group: str
    votes: int
    same: int
    repeats: int
    usual: int
    expected: float
    decided: int
    doubt: str = ""


def agreement(judgements: Iterable[Judgement], *, seed: int = 0) -> tuple[float, float, float, int] | None:
    """Return Krippendorff's nominal alpha of raters' choices, its 95 % interval, and on how many questions.

    1 is perfect agreement, 0 what chance gives. None unless two questions were judged by two raters each,
    with two different verdicts among them. Of a rater's verdicts on one question the first counts.
    """
    import evalica
    import pandas as pd

    table: dict[str, dict[str, str]] = defaultdict(dict)
    for one in judgements:
        if one.choice != "skip" and one.question and one.rater:
            table[one.question].setdefault(one.rater, one.choice)
    units = {question: votes for question, votes in table.items() if len(votes) > 1}
    kinds = sorted({choice for votes in units.values() for choice in votes.values()})
    if len(units) < 2 or len(kinds) < 2:
        return None
    codes = {question: {r: float(kinds.index(c)) for r, c in v.items()} for question, v in units.items()}
    frame = pd.DataFrame(codes)
    found = evalica.alpha_bootstrap(frame, "nominal", n_resamples=1000, random_state=seed)
    return float(found.alpha), float(found.low), float(found.high), len(units)


def consistency(judgements: Iterable[Judgement]) -> dict[str, tuple[int, int]]:
    """Return rater -> (same, repeats): how often a question that was asked again got the same verdict.

    Every verdict is compared with the rater's first on the same answers; skips are no verdicts.
    """
    seen: dict[tuple[str, str], str] = {}
    found: dict[str, tuple[int, int]] = {}
    for one in judgements:
        if one.choice == "skip" or not one.question:
            continue
        key = one.rater, one.question
        if key in seen:
            same, repeats = found.get(one.rater, (0, 0))
            found[one.rater] = same + (seen[key] == one.choice), repeats + 1
        seen.setdefault(key, one.choice)
    return found


def sides(judgements: Iterable[Judgement]) -> list[Side]:
    """Return how often each place among the answers was best: with k answers shown, k places.

    Of two answers only the left is told. Questions with different numbers of answers stay apart.
    """
    best: dict[int, list[int]] = {}
    for one in judgements:
        if one.choice in one.variants and len(one.variants) > 1:
            counts = best.setdefault(len(one.variants), [0] * len(one.variants))
            counts[one.variants.index(one.choice)] += 1
    found = []
    for shown, counts in sorted(best.items()):
        total = sum(counts)
        for place, count in enumerate(counts[:1] if shown == 2 else counts):
            low, high = wilson(count, total)
            found.append(Side(shown=shown, place=place, best=count, decided=total, low=low, high=high))
    return found


def raters(judgements: Sequence[Judgement]) -> list[Rater]:
    """Return every rater's record, sorted by name, with those named who stand out.

    Two tests, each one-sided: a rater keeps to the first verdict on repeats less often than the others do
    (exact binomial), or prefers what the others' Bradley-Terry scores put first less often than these scores
    predict (normal). `ERROR` is shared by all raters and both tests (Bonferroni). Who stands out may be
    careless, or right: nobody is left out.
    """
    told = telling(judgements)
    repeated = consistency(judgements)
    names = sorted({one.rater for one in told if one.rater})
    if not names:
        return []
    level = ERROR / max(1, 2 * len(names))
    votes = Counter(one.rater for one in told)
    groups = {one.rater: one.group for one in told if one.group}
    found = []
    for name, (usual, expected, spread, decided) in zip(names, _usual(told, names), strict=True):
        same, repeats = repeated.get(name, (0, 0))
        others = [record for rater, record in repeated.items() if rater != name]
        doubts = []
        kept, asked = sum(s for s, _ in others), sum(n for _, n in others)
        if repeats and asked and _binomial_tail(same, repeats, (kept + 1) / (asked + 2)) < level:
            doubts.append(
                f"kept to {same} of {repeats} verdicts when asked again, the others to {kept} of {asked}"
            )
        if spread and _normal_tail((usual + 0.5 - expected) / spread) < level:
            doubts.append(
                f"sided with the others in {usual} of {decided} pairs, {expected:.0f} were to be expected"
            )
        found.append(
            Rater(
                rater=name,
                group=groups.get(name, ""),
                votes=votes[name],
                same=same,
                repeats=repeats,
                usual=usual,
                expected=expected,
                decided=decided,
                doubt="; ".join(doubts),
            )
        )
    return found


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (`studio.scores.wilson`); 0 to 1 if there is nothing."""
    return wilson_of(hits, total) if total else (0.0, 1.0)


def _usual(told: Sequence[Judgement], names: Sequence[str]) -> list[tuple[int, float, float, int]]:
    """Return of each rater the pairs won by the others' favourite, those expected, their deviation, all.

    The others' scores are those of all votes without the rater's.
    """
    variants = {name: at for at, name in enumerate(sorted({v for one in told for v in one.variants}))}
    place = {name: at for at, name in enumerate(names)}
    beaten = np.zeros((len(names) + 1, len(variants), len(variants)))  # the last are the nameless
    tied = np.zeros_like(beaten)
    for one in told:
        rater = place.get(one.rater, len(names))
        for a, b in combinations([variants[name] for name in one.variants], 2):
            if one.choice in TIES:
                tied[rater, a, b] += 0.5
                tied[rater, b, a] += 0.5
            elif variants[one.choice] in (a, b):
                beaten[rater, variants[one.choice], a + b - variants[one.choice]] += 1
    won = beaten + tied
    found = []
    for own, score in zip(beaten, scores(won.sum(0) - won)[:-1], strict=False):
        ahead = score[:, None] - score[None, :]
        chance = 1 / (1 + np.exp(-np.abs(ahead) / ELO))
        spread = float(np.sqrt((own * chance * (1 - chance)).sum()))
        found.append((int(own[ahead >= 0].sum()), float((own * chance).sum()), spread, int(own.sum())))
    return found


def _binomial_tail(hits: int, total: int, chance: float) -> float:
    """Return the chance of at most ``hits``."""
    return sum(math.comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(hits + 1))


def _normal_tail(z: float) -> float:
    """Return the chance of at most ``z``."""
    return 0.5 * math.erfc(-z / math.sqrt(2))

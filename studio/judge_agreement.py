"""Whether a judging model agrees with people: on pairs of answers that they have voted on.

    kappa = (observed - expected) / (1 - expected)

with the agreement that chance gives from how often each says what (Cohen 1960, Educational and Psychological
Measurement 20, 37-46). Around 0.6 to 0.8 is what people reach among themselves on such questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from studio.intervals import Additive, interval
from studio.judge import Case, Judge, Memory
from studio.kept import VERDICTS, Comparison, Vote
from studio.log import Log

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_SAYS = ("first", "tie", "second")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Share of ``n`` pairs on which judge and people say the same, and kappa, each with its 95 % interval."""

    n: int
    value: float
    ci: tuple[float, float]
    kappa: float
    kappa_ci: tuple[float, float]


def agreement(
    judge: Judge,
    comparisons: Iterable[Comparison],
    votes: Iterable[Vote],
    kept: Memory,
    log: Log,
    seed: int = 0,
) -> Agreement | None:
    """Return how a judge agrees with votes, or None if none can be compared.

    A vote for a variant stands for one pair with each of the others, "tie" for a tie between any two; flagged
    votes, "both bad" and "skip" do not count. The judge says "tie" where the two orders contradict each
    other. All pairs of one comparison are drawn together in the intervals.
    """
    cases, people, clusters = _pairs(comparisons, votes)
    if not cases:
        return None
    found = judge.preferences(cases, kept, log)
    table = np.zeros((len(cases), 9))
    for at, (said, (first, second)) in enumerate(zip(people, found, strict=True)):
        ours = 0 if min(first, second) > 0.5 else 2 if max(first, second) < 0.5 else 1
        table[at, 3 * _SAYS.index(said) + ours] = 1.0
    same = Additive(rows=table, value=_observed).gathered(clusters)
    chance = Additive(rows=table, value=_kappa, least=-1.0).gathered(clusters)
    return Agreement(
        n=len(cases),
        value=same.observed,
        ci=interval(same, seed),
        kappa=chance.observed,
        kappa_ci=interval(chance, seed),
    )


def _pairs(
    comparisons: Iterable[Comparison], votes: Iterable[Vote]
) -> tuple[list[Case], list[str], Sequence[int]]:
    """Return pairs of answers, what people said of each, and the numbers of their comparisons [N]."""
    asked = {one.id: one for one in comparisons}
    cases: list[Case] = []
    people: list[str] = []
    clusters: list[int] = []
    for vote in votes:
        of = asked.get(vote.comparison)
        if of is None or vote.flagged or vote.choice in set(VERDICTS) - {"tie"}:
            continue
        said = {answer.variant: answer.text for answer in of.answers}
        shown = [name for name in of.variants if name in said]
        for at, first in enumerate(shown):
            for second in shown[at + 1 :]:
                if vote.choice not in ("tie", first, second):
                    continue
                cases.append(
                    Case(
                        question=of.prompt,
                        reference=vote.correction,
                        answer=said[first],
                        second=said[second],
                    )
                )
                people.append({first: "first", second: "second"}.get(vote.choice, "tie"))
                clusters.append(of.id)
    return cases, people, clusters


def _observed(totals: Values) -> Values:
    found: Values = totals.reshape(-1, 3, 3).trace(axis1=1, axis2=2) / totals.sum(axis=1)
    return found


def _kappa(totals: Values) -> Values:
    """Return kappa of tables [R, 9]; 0 where both always say the same one thing."""
    shares = totals.reshape(-1, 3, 3) / totals.sum(axis=1)[:, np.newaxis, np.newaxis]
    expected = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    over, under = _observed(totals) - expected, 1 - expected
    found: Values = np.where(under > 1e-12, over / np.where(under > 1e-12, under, 1.0), 0.0)
    return found

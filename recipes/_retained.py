"""What a merge keeps of its experts: its scores divided by what they have at home, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000

Draws = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of what experts have, with its 95 % interval; None where an expert has nothing."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Retained:
    """What is kept in each domain, on average over the domains, and in the worst of them."""

    domains: Mapping[str, Share]
    mean: Share
    worst: Share


def retained(
    values: Mapping[str, Sequence[float]], home: Mapping[str, Sequence[float]], seed: int = 0
) -> Retained:
    """Return what a merge keeps, from each row's value for the merge and for the domain's own expert [N].

    Intervals are percentiles of a bootstrap over the rows of each domain, merge and expert together, so that
    what makes a row hard does not widen them.
    """
    ratios: dict[str, Draws] = {}
    points: dict[str, float] = {}
    for at, (domain, own) in enumerate(values.items()):
        merged, expert = np.asarray(own, dtype=np.float64), np.asarray(home[domain], dtype=np.float64)
        if expert.mean() == 0:
            continue
        points[domain] = float(merged.mean() / expert.mean())
        generator = np.random.default_rng([seed, at])
        drawn = generator.integers(0, len(merged), size=(DRAWS, len(merged)))
        below = expert[drawn].mean(axis=1)
        safe = np.where(below > 0, below, 1.0)
        ratios[domain] = np.where(below > 0, merged[drawn].mean(axis=1) / safe, np.nan)
    domains = {d: _share(points[d], ratios[d]) if d in points else Share(value=None) for d in values}
    if len(points) < len(values):
        return Retained(domains=domains, mean=Share(value=None), worst=Share(value=None))
    every, found = np.stack(list(ratios.values())), list(points.values())
    return Retained(
        domains=domains,
        mean=_share(sum(found) / len(found), every.mean(axis=0)),
        worst=_share(min(found), every.min(axis=0)),
    )


def _share(value: float, draws: Draws) -> Share:
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Share(value=value, low=float(low), high=float(high))

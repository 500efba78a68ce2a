"""Intervals that hold the truth 95 times in 100: of shares, of functions of sums, of what is scored again.

For a score that is a function of sums over samples the bootstrap draws totals, and the ends are read off
where BCa puts them (Efron 1987, JASA 82, 171-185), bias and skewness corrected, with Student's quantiles and
the factor sqrt(n / (n - 1)) that make up for the narrowness of the bootstrap at small n (Hesterberg 2015, The
American Statistician 69, 371-386, section 3.2). Plain percentiles cover 92 % at n = 50, these 94 to 96 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RESAMPLES = 2000
Z95 = 1.959963984540054
MANY, FEW = 10_000, 100
"""Totals of more than `MANY` samples of more than `FEW` kinds are drawn from their normal limit."""
_CHUNK = 4_000_000  # drawn indices in memory at a time
_STEP = 1e-5  # of derivatives, relative


@dataclass(frozen=True, kw_only=True)
class Additive:
    """A metric's score as a function of sums: rows [N, S] to add up, and the values [R] of totals [R, S].

    ``share`` says that every sample is worth 0 or 1 and the value is their mean. ``least`` and ``most`` are
    the ends of what a score can be, as far as is assumed where all samples are alike.
    """

    rows: Values
    value: Callable[[Values], Values]
    share: bool = False
    least: float = 0.0
    most: float = 1.0

    @classmethod
    def of_values(cls, values: Sequence[float] | Values) -> Additive:
        """Return the mean of samples' values [N]."""
        own = np.asarray(values, dtype=np.float64)
        share = bool(np.isin(own, (0.0, 1.0)).all())
        return cls(rows=np.stack([own, np.ones_like(own)], axis=1), value=quotient, share=share)

    def gathered(self, clusters: Sequence[Hashable] | None) -> Additive:
        """Return the same with one row for each cluster of samples."""
        if clusters is None:
            return self
        _, place = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
        rows = np.zeros((int(place.max()) + 1, self.rows.shape[1]))
        np.add.at(rows, place, self.rows)
        return Additive(rows=rows, value=self.value, least=self.least, most=self.most)

    @property
    def observed(self) -> float:
        """The score of the samples as they are."""
        return float(self.value(self.rows.sum(axis=0)[None])[0])


def quotient(totals: Values) -> Values:
    """Return the first of two sums divided by the second [R]; without a second 0 or 1, as for word errors."""
    over, under = totals.T
    found: Values = np.where(under > 0, over / np.where(under > 0, under, 1.0), np.sign(over))
    return found


def interval(table: Additive, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % interval of a function of sums.

    Shares get Wilson's. Where all samples are alike there is nothing to draw from: then the share of others
    that may have been missed, by Wilson, is taken to lie anywhere between ``least`` and ``most``.
    """
    n = len(table.rows)
    if table.share:
        return wilson(int(table.rows[:, 0].sum()), n)
    observed, missed = table.observed, wilson(0, n)[1]
    influence = _influence(table)
    if n < 2 or not np.abs(influence).max() > 1e-9 * max(1.0, abs(observed)):
        if not table.least <= observed <= table.most:
            return observed, observed
        return (
            observed - missed * (observed - table.least),
            observed + missed * (table.most - observed),
        )
    values = table.value(drawn_totals(table.rows, np.random.default_rng(seed), resamples))
    cubes, squares = float((influence**3).sum()), float((influence**2).sum())
    low, high = ends(values, observed, n, cubes / (6 * squares**1.5))
    return low, high


def ends(values: Values, observed: float, n: int, acceleration: float = 0.0) -> tuple[float, float]:
    """Return the ends of the interval that bootstrap ``values`` [R] give, by BCa with Student's quantiles.

    Args:
        values: the score of every draw.
        observed: the score of the samples as they are.
        n: number of samples, or of clusters: what was drawn.
        acceleration: skewness of the score's influence, over 6; 0 corrects for bias alone.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    below = float((values < observed).mean() + (values == observed).mean() / 2)
    least = 1 / (len(values) + 1)
    bias = float(ndtri(min(max(below, least), 1 - least)))
    reach = float(stdtrit(n - 1, 0.975)) * math.sqrt(n / (n - 1)) if n > 1 else math.inf
    levels = []
    for side in (-reach, reach):
        z = bias + side
        bent = 1 - acceleration * z
        levels.append(float(ndtr(bias + z / bent)) if bent > 0 else float(side > 0))
    low, high = np.quantile(values, levels)
    return min(float(low), observed), max(float(high), observed)


def drawn_totals(rows: Values, generator: np.random.Generator, resamples: int) -> Values:
    """Return totals [R, S] of ``resamples`` draws of all rows [N, S] with replacement.

    Equal rows are drawn by their number; more than `MANY` of many kinds by the normal limit of their sum.
    """
    n = len(rows)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    if n > MANY and len(kinds) > FEW:
        limit: Values = normal_totals(rows - rows.mean(axis=0), generator, resamples) + rows.sum(axis=0)
        return limit
    totals = np.empty((resamples, rows.shape[1]))
    few = 4 * len(kinds) < n
    step = max(_CHUNK // (len(kinds) if few else n), 1)
    for at in range(0, resamples, step):
        size = min(step, resamples - at)
        if few:
            totals[at : at + size] = generator.multinomial(n, counts / n, size=size) @ kinds
        else:
            totals[at : at + size] = rows[generator.integers(0, n, size=(size, n))].sum(axis=1)
    return totals


def normal_totals(rows: Values, generator: np.random.Generator, draws: int) -> Values:
    """Return draws [R, S] from the normal distribution around 0 whose covariance is rows' rows [S, S]."""
    sizes, directions = np.linalg.eigh(rows.T @ rows)
    root: Values = directions * np.sqrt(np.maximum(sizes, 0.0))
    found: Values = generator.standard_normal((draws, rows.shape[1])) @ root.T
    return found


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, JASA 22, 209-212), within [0, 1].

    Raises:
        ValueError: unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    share, z2 = successes / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(middle - half, 0.0)
    return low, 1.0 if successes == n else min(middle + half, 1.0)


def bootstrap(
    n: int, statistic: Callable[[NDArray[np.int64]], Values], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of ``statistic`` over draws of ``n`` samples with replacement.

    Args:
        n: number of samples.
        statistic: maps drawn indices [R, n] to values [R].
        seed: of the draws.
        resamples: number of draws (Efron and Tibshirani 1993, chapter 13).
    """
    low, high = np.percentile(drawn_values(n, statistic, seed, resamples), (2.5, 97.5))
    return float(low), float(high)


def drawn_values(
    n: int, statistic: Callable[[NDArray[np.int64]], Values], seed: int, resamples: int = RESAMPLES
) -> Values:
    """Return ``statistic`` of every draw [R]; see `bootstrap`."""
    generator = np.random.default_rng(seed)
    step = max(_CHUNK // n, 1)
    return np.concatenate(
        [
            statistic(generator.integers(0, n, size=(min(step, resamples - at), n)))
            for at in range(0, resamples, step)
        ]
    )


def _influence(table: Additive) -> Values:
    """Return by how much each row [N] moves the score, to first order, about their mean."""
    totals = table.rows.sum(axis=0)
    steps = np.maximum(np.abs(totals), 1.0) * _STEP
    around = np.concatenate([totals + np.diag(steps), totals - np.diag(steps)])
    values = table.value(around)
    slope = (values[: len(totals)] - values[len(totals) :]) / (2 * steps)
    moved: Values = (table.rows - totals / len(table.rows)) @ slope
    return moved

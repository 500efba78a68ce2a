"""A metric's value with what it is worth: sample size and 95 % interval.

A metric is a file in `studio/metrics` with ``score(predictions, references) -> float`` and
``HIGHER_IS_BETTER``, and it may tell more about itself:

``each(predictions, references) -> list[float]``
    the value of every sample [N]; the score is their mean unless there is ``counts``.
``counts(predictions, references) -> list[tuple[float, float]]``
    numerator and denominator of every sample [N]; the score is the ratio of their sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from studio import plugins
from studio.types import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RESAMPLES = 2000
Z95 = 1.959963984540054
_CHUNK = 4_000_000  # drawn indices in memory at a time


def measure(metric: str, predictions: Sequence[str], references: Sequence[str], seed: int = 0) -> Score:
    """Return the score of ``predictions`` with its 95 % interval.

    Samples worth 0 or 1 get Wilson's interval; everything else a percentile bootstrap over samples with
    `RESAMPLES` draws from ``seed``, scored again draw by draw where the score is no mean of samples.

    Raises:
        UnknownName: if there is no such metric.
        ValueError: if the lengths differ or there is no sample.
    """
    module = plugins.load("metrics", metric)
    value = float(module.score(predictions, references))
    low, high = _interval(module, predictions, references, seed)
    return Score(
        name=metric,
        value=value,
        n=len(references),
        low=low,
        high=high,
        higher_is_better=bool(module.HIGHER_IS_BETTER),
    )


def _interval(
    module: ModuleType, predictions: Sequence[str], references: Sequence[str], seed: int
) -> tuple[float, float]:
    if hasattr(module, "counts"):
        table = np.asarray(module.counts(predictions, references), dtype=np.float64)
        return bootstrap(len(table), lambda rows: _ratios(table, rows), seed)
    if hasattr(module, "each"):
        values = np.asarray(module.each(predictions, references), dtype=np.float64)
        if np.isin(values, (0.0, 1.0)).all():
            return wilson(int(values.sum()), len(values))
        return bootstrap(len(values), lambda rows: values[rows].mean(axis=1), seed)

    def again(rows: NDArray[np.int64]) -> Values:
        drawn = [([predictions[i] for i in row], [references[i] for i in row]) for row in rows]
        return np.array([module.score(some, true) for some, true in drawn], dtype=np.float64)

    return bootstrap(len(references), again, seed)


def _ratios(table: Values, rows: NDArray[np.int64]) -> Values:
    """Return the ratio of sums of every draw [R]; without a denominator 0 or 1, as for word errors."""
    over, under = table[rows].sum(axis=1).T
    ratios: Values = np.where(under > 0, over / np.where(under > 0, under, 1.0), np.sign(over))
    return ratios


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
    generator = np.random.default_rng(seed)
    step = max(_CHUNK // n, 1)
    values = [
        statistic(generator.integers(0, n, size=(min(step, resamples - at), n)))
        for at in range(0, resamples, step)
    ]
    low, high = np.percentile(np.concatenate(values), (2.5, 97.5))
    return float(low), float(high)

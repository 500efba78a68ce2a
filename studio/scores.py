"""A metric's value with what it is worth: sample size and 95 % interval.

A metric is a file in `studio/metrics` with ``score(predictions, references) -> float`` and
``HIGHER_IS_BETTER``, and it may tell more about itself:

``each(predictions, references) -> list[float]``
    the value of every sample [N]; the score is their mean unless there is more below.
``counts(predictions, references) -> list[tuple[float, float]]``
    numerator and denominator of every sample [N]; the score is the ratio of their sums.
``sums(predictions, references)`` and ``of_sums(totals)``
    what it adds up over the samples [N, S], and the score [R] of such totals [R, S].
``NEEDS``
    names of further columns, one value a sample, that it takes as keyword arguments: ``confidence``,
    ``surprise``, ``tokens``, ``judgement``, or a row's group or ``extra`` of that name.
``EXAMPLES``
    pairs of a right and a wrong answer, for metrics that read a format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from studio import plugins
from studio.types import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RESAMPLES = 2000
Z95 = 1.959963984540054
_CHUNK = 4_000_000  # drawn indices in memory at a time
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Additive:
    """A metric's score as a function of sums: rows [N, S] to add up, and the values [R] of totals [R, S].

    ``share`` says that every sample is worth 0 or 1 and the value is their mean.
    """

    rows: Values
    value: Callable[[Values], Values]
    share: bool = False

    def gathered(self, clusters: Sequence[Hashable] | None) -> Additive:
        """Return the same with one row for each cluster of samples."""
        if clusters is None:
            return self
        _, place = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
        rows = np.zeros((int(place.max()) + 1, self.rows.shape[1]))
        np.add.at(rows, place, self.rows)
        return Additive(rows=rows, value=self.value)


def measure(
    metric: str,
    predictions: Sequence[str],
    references: Sequence[str],
    seed: int = 0,
    *,
    columns: Columns | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Score:
    """Return the score of ``predictions`` with its 95 % interval.

    Samples worth 0 or 1 get Wilson's interval; everything else a percentile bootstrap over samples with
    `RESAMPLES` draws from ``seed``, scored again draw by draw where the score is no function of sums.
    ``clusters`` name what belongs together (a speaker, a patient) [N]: whole clusters are drawn then, and
    Wilson's interval, which takes samples for independent, is not used. ``columns`` holds what the metric
    needs.

    Raises:
        UnknownName: if there is no such metric.
        ValueError: the lengths differ, there is no sample, a column is missing, or the score is not finite.
    """
    module = plugins.load("metrics", metric)
    more = needed(module, metric, columns or {})
    value = float(module.score(predictions, references, **more))
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}, which is no number to compare")
    low, high = _interval(module, predictions, references, more, clusters, seed)
    return Score(
        name=metric,
        value=value,
        n=len(references),
        low=low,
        high=high,
        higher_is_better=bool(module.HIGHER_IS_BETTER),
    )


def needed(module: ModuleType, metric: str, columns: Columns) -> dict[str, Sequence[Any]]:
    """Return the columns that a metric takes.

    Raises:
        ValueError: one of them is missing.
    """
    wanted = tuple(getattr(module, "NEEDS", ()))
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"{metric} needs for every sample: {', '.join(missing)}")
    return {name: columns[name] for name in wanted}


def additive(
    module: ModuleType, predictions: Sequence[str], references: Sequence[str], columns: Columns | None = None
) -> Additive | None:
    """Return a metric's score as a function of sums over samples, or None if it tells of none."""
    more = dict(columns or {})
    if hasattr(module, "sums"):
        return Additive(rows=module.sums(predictions, references, **more), value=module.of_sums)
    if hasattr(module, "counts"):
        table = np.asarray(module.counts(predictions, references, **more), dtype=np.float64)
        return Additive(rows=table, value=_ratio)
    if hasattr(module, "each"):
        values = np.asarray(module.each(predictions, references, **more), dtype=np.float64)
        rows = np.stack([values, np.ones_like(values)], axis=1)
        return Additive(rows=rows, value=_ratio, share=bool(np.isin(values, (0.0, 1.0)).all()))
    return None


def _interval(
    module: ModuleType,
    predictions: Sequence[str],
    references: Sequence[str],
    more: Columns,
    clusters: Sequence[Hashable] | None,
    seed: int,
) -> tuple[float, float]:
    sums = additive(module, predictions, references, more)
    if sums is None:
        return _scored_again(module, predictions, references, more, clusters, seed)
    if sums.share and clusters is None:
        return wilson(int(sums.rows[:, 0].sum()), len(sums.rows))
    table = sums.gathered(clusters)
    return bootstrap(len(table.rows), lambda rows: table.value(table.rows[rows].sum(axis=1)), seed)


def _scored_again(
    module: ModuleType,
    predictions: Sequence[str],
    references: Sequence[str],
    more: Columns,
    clusters: Sequence[Hashable] | None,
    seed: int,
) -> tuple[float, float]:
    names = [str(cluster) for cluster in clusters] if clusters is not None else range(len(references))
    members: dict[Hashable, list[int]] = {}
    for at, name in enumerate(names):
        members.setdefault(name, []).append(at)
    parts = list(members.values())

    def again(draws: NDArray[np.int64]) -> Values:
        values = []
        for draw in draws:
            rows = [row for part in draw for row in parts[part]]
            columns = {name: [column[row] for row in rows] for name, column in more.items()}
            said, meant = [predictions[row] for row in rows], [references[row] for row in rows]
            values.append(module.score(said, meant, **columns))
        return np.array(values, dtype=np.float64)

    return bootstrap(len(parts), again, seed)


def _ratio(totals: Values) -> Values:
    """Return the ratio of sums of every draw [R]; without a denominator 0 or 1, as for word errors."""
    over, under = totals.T
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

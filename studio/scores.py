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
from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from studio import plugins
from studio.intervals import RESAMPLES, Additive, bootstrap, drawn_values, ends, interval, quotient, wilson
from studio.types import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "Additive",
    "Columns",
    "additive",
    "bootstrap",
    "by_sample",
    "finite",
    "measure",
    "needed",
    "score_of",
    "wilson",
]

Columns = Mapping[str, Sequence[Any]]


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

    Samples worth 0 or 1 get Wilson's interval; everything else a bootstrap over samples (`studio.intervals`)
    with draws from ``seed``, scored again draw by draw where the score is no function of sums. ``clusters``
    name what belongs together (a speaker, a patient) [N]: whole clusters are drawn then, and Wilson's
    interval, which takes samples for independent, is not used. ``columns`` holds what the metric needs.

    Raises:
        UnknownName: if there is no such metric.
        ValueError: the lengths differ, there is no sample, a column is missing, or a score is not finite.
    """
    module = plugins.load("metrics", metric)
    more = needed(module, metric, columns or {})
    table = additive(module, predictions, references, more)
    if table is not None:
        return score_of(metric, table, seed, clusters=clusters)
    value = _finite(metric, float(module.score(predictions, references, **more)))
    low, high = _scored_again(module, predictions, references, more, clusters, seed, value)
    return Score(
        name=metric, value=value, n=len(references), low=low, high=high,
        higher_is_better=bool(module.HIGHER_IS_BETTER),
    )  # fmt: skip


def score_of(
    metric: str, table: Additive, seed: int = 0, *, clusters: Sequence[Hashable] | None = None
) -> Score:
    """Return the score that a metric's sums over samples give, as `measure` does.

    Raises:
        ValueError: what is added up, or the score, is not finite.
    """
    finite(metric, table)
    gathered = table.gathered(clusters)
    value = _finite(metric, gathered.observed)
    low, high = interval(gathered, seed)
    better = bool(plugins.load("metrics", metric).HIGHER_IS_BETTER)
    return Score(name=metric, value=value, n=len(table.rows), low=low, high=high, higher_is_better=better)


def by_sample(module: ModuleType, table: Additive) -> list[float] | None:
    """Return the value of every sample [N], or None for a metric that tells of none."""
    if not hasattr(module, "each"):
        return None
    values = quotient(table.rows) if hasattr(module, "counts") else table.rows[:, 0]
    return [float(value) for value in values]


def _finite(metric: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{metric} is {value}, which is no number to compare")
    return value


def finite(metric: str, table: Additive) -> None:
    """Raise `ValueError`, naming the first sample, if what a metric adds up is no finite number."""
    wrong = np.flatnonzero(~np.isfinite(table.rows).all(axis=1))
    if len(wrong):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"{metric} of sample {wrong[0] + 1}{more} is no finite number, so there is nothing to compare"
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
        return Additive(rows=table, value=quotient)
    if hasattr(module, "each"):
        return Additive.of_values(module.each(predictions, references, **more))
    return None


def _scored_again(
    module: ModuleType,
    predictions: Sequence[str],
    references: Sequence[str],
    more: Columns,
    clusters: Sequence[Hashable] | None,
    seed: int,
    observed: float,
) -> tuple[float, float]:
    names = [str(cluster) for cluster in clusters] if clusters is not None else range(len(references))
    members: dict[Hashable, list[int]] = {}
    for at, name in enumerate(names):
        members.setdefault(name, []).append(at)
    parts = list(members.values())

    def again(draw: Sequence[int]) -> float:
        rows = [row for part in draw for row in parts[part]]
        columns = {name: [column[row] for row in rows] for name, column in more.items()}
        said, meant = [predictions[row] for row in rows], [references[row] for row in rows]
        return float(module.score(said, meant, **columns))

    n = len(parts)
    values = drawn_values(n, lambda draws: np.array([again(draw.tolist()) for draw in draws]), seed)
    acceleration = 0.0
    if 1 < n <= RESAMPLES:  # by leaving out one after another (Efron 1987, section 7)
        without = np.array([again([*range(at), *range(at + 1, n)]) for at in range(n)])
        moved = without.mean() - without
        squares = float((moved**2).sum())
        acceleration = float((moved**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    return ends(values, observed, n, acceleration)

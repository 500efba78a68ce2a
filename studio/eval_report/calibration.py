"""How sure the answers are, and how often they are right: the reliability diagram's points.

Bins and rightness are those of the metric `calibration_error` (Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.eval_report.evaluation import Evaluation, Row
from studio.intervals import wilson
from studio.metrics.calibration_error import BINS, score
from studio.metrics.exact_match import each as right


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers whose confidence lies from ``low`` to ``high``: their mean confidence and the share right."""

    low: float
    high: float
    n: int
    confidence: float
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A variant's bins that hold answers, over all domains, and its expected calibration error."""

    variant: str
    n: int
    error: float
    bins: tuple[Bin, ...]


def reliabilities(evaluation: Evaluation) -> list[Reliability]:
    """Return the reliability of every variant whose confidences are known."""
    found = []
    for variant in evaluation.variants:
        rows = [
            row
            for tables in evaluation.rows.values()
            for row in tables.get(variant, {}).values()
            if row.confidence is not None
        ]
        if rows:
            found.append(_reliability(variant, rows))
    return found


def _reliability(variant: str, rows: list[Row]) -> Reliability:
    said, meant = [row.output for row in rows], [row.reference for row in rows]
    sure = [row.confidence or 0.0 for row in rows]
    hits = np.asarray(right(said, meant), dtype=np.float64)
    places = np.minimum((np.asarray(sure) * BINS).astype(int), BINS - 1)
    bins = []
    for place in np.unique(places):
        inside = places == place
        count, hit = int(inside.sum()), int(hits[inside].sum())
        bins.append(
            Bin(
                low=int(place) / BINS,
                high=(int(place) + 1) / BINS,
                n=count,
                confidence=float(np.asarray(sure)[inside].mean()),
                right=hit / count,
                interval=wilson(hit, count),
            )
        )
    error = score(said, meant, confidence=sure)
    return Reliability(variant=variant, n=len(rows), error=error, bins=tuple(bins))

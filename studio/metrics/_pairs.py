"""The one check all metrics share: as many predictions as references, and at least one."""

from __future__ import annotations

from collections.abc import Sequence


def pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    """Return (prediction, reference) for every sample.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions stand against {len(references)} references")
    if not references:
        raise ValueError("a metric needs at least one sample")
    return list(zip(predictions, references, strict=True))

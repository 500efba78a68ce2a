"""Edits that give rows other weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from studio.data.steps._step import Edit, change
from studio.types import Sample


def weighed(rows: Sequence[Sample], factors: Sequence[float]) -> list[Edit]:
    """Return the edits by which each row's weight is multiplied by its factor; unchanged rows have none."""
    edits = []
    for row, factor in zip(rows, factors, strict=True):
        weight = round(row.weight * factor, 6)
        if weight != row.weight:
            why = f"weight {row.weight:g} becomes {weight:g}"
            edits.append(change(row, replace(row, weight=weight), why))
    return edits

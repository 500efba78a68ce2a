"""Edits that give rows other weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from studio.data.steps._step import Edit, change
from studio.types import Sample


def by_file(samples: Sequence[Sample]) -> dict[Path, list[Sample]]:
    """Return the rows of each file, in order: splits are weighed each for itself."""
    files: dict[Path, list[Sample]] = {}
    for sample in samples:
        files.setdefault(sample.file, []).append(sample)
    return files


def weighed(rows: Sequence[Sample], factors: Sequence[float]) -> list[Edit]:
    """Return the edits by which each row's weight is multiplied by its factor; unchanged rows have none."""
    edits = []
    for row, factor in zip(rows, factors, strict=True):
        weight = round(row.weight * factor, 6)
        if weight != row.weight:
            why = f"weight {row.weight:g} becomes {weight:g}"
            edits.append(change(row, replace(row, weight=weight), why))
    return edits

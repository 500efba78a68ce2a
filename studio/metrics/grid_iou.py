"""Cells of a grid in answer and reference, as ``B3, C3``: intersection over union, averaged over the samples.

A cell is a letter and a number of one or two digits. The Jaccard index of the two sets (Jaccard 1912); where
neither names a cell ("none"), the sample scores 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
EXAMPLES = (("B3, C3", "F7"),)
_CELL = re.compile(r"\b([a-z])\s?(\d{1,2})\b")


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean overlap of the samples, in [0, 1].

    Raises:
        ValueError: the lengths differ, there is no sample, or no reference names a cell.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the overlap of every sample [N].

    Raises:
        ValueError: the lengths differ, there is no sample, or no reference names a cell.
    """
    found = [(cells(said), cells(meant)) for said, meant in pairs(predictions, references)]
    if not any(meant for _, meant in found):
        raise ValueError("no reference names a cell of a grid, as B3")
    return [len(said & meant) / len(said | meant) if said | meant else 1.0 for said, meant in found]


def cells(text: str) -> set[tuple[str, int]]:
    """Return the cells that a text names."""
    return {(letter, int(number)) for letter, number in _CELL.findall(text.casefold())}

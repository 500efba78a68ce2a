"""Boxes in answer and reference: intersection over union of the best matching, averaged over the samples.

A box is four numbers in brackets, ``[x1, y1, x2, y2]`` or ``(x1, y1, x2, y2)``, corners in either order.
Boxes are matched one to one so that the sum of their IoU is largest (Kuhn 1955); it is divided by the number
of boxes of the longer list, so that boxes too many cost as much as boxes missed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
EXAMPLES = (("[10, 10, 50, 40]", "[60, 60, 90, 90]"),)
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]")

Box = tuple[float, float, float, float]


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean IoU of the samples, in [0, 1].

    Raises:
        ValueError: the lengths differ, there is no sample, or a reference holds no box.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the IoU of every sample [N].

    Raises:
        ValueError: the lengths differ, there is no sample, or a reference holds no box.
    """
    found = []
    for at, (said, meant) in enumerate(pairs(predictions, references), start=1):
        true = boxes(meant)
        if not true:
            raise ValueError(f"reference {at} holds no box [x1, y1, x2, y2]: {meant[:60]!r}")
        found.append(_matched(boxes(said), true))
    return found


def boxes(text: str) -> list[Box]:
    """Return the boxes of a text with their corners in order: left, top, right, bottom."""
    numbers = [[float(n) for n in match.groups()] for match in _BOX.finditer(text)]
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in numbers]


def _matched(said: list[Box], meant: list[Box]) -> float:
    if not said:
        return 0.0
    overlaps = np.array([[_iou(one, other) for other in meant] for one in said])
    rows, columns = linear_sum_assignment(-overlaps)
    return float(overlaps[rows, columns].sum()) / max(len(said), len(meant))


def _iou(one: Box, other: Box) -> float:
    if one == other:
        return 1.0  # boxes without area, too
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = _area(one) + _area(other) - shared
    return shared / both if both > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])

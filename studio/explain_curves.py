"""Whether an explanation is true of its model: what happens when units go, or come, in its order.

Deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421): the value falls early where the weightiest
units go first, and rises early where they come first. Random orders tell what "early" is worth here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from studio.errors import ConfigError
from studio.explain import Explanation
from studio.explain_units import Eraser, Fill
from studio.explain_value import Value, Within
from studio.log import Log, QuietLog
from studio.types import Sample

if TYPE_CHECKING:
    from studio.variants import Engine


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Areas under the curves of the value, scaled so that the whole question is 1 and the empty one 0.

    ``deletion`` is better the smaller, ``insertion`` the larger; ``random_deletion`` and
    ``random_insertion`` are the means over random orders.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    orders: int


def curves(
    engine: Engine,
    explained: Explanation,
    sample: Sample,
    *,
    fill: Fill = "blur",
    orders: int = 4,
    seed: int = 0,
    batch_size: int = 16,
    log: Log | None = None,
    within: Within | None = None,
) -> Curves:
    """Return how fast the value falls and rises in the order of the weights, and in ``orders`` random ones.

    Takes about ``2 (orders + 1) N`` forward passes of each model over N units; ``fill`` must be that of the
    explanation.

    Raises:
        ConfigError: no order to compare with, or a question that is worth nothing.
    """
    if orders < 1:
        raise ConfigError(f"orders is {orders}; at least 1 random order is needed to compare with")
    count = len(explained.units)
    names = tuple(filter(None, (explained.variant, explained.against)))
    draw = Random(seed)
    ranked = sorted(range(count), key=lambda at: -explained.weights[at])
    random = [draw.sample(range(count), count) for _ in range(orders)]
    with TemporaryDirectory(prefix="triptych-explain-") as folder:
        eraser = Eraser(sample, explained.units, Path(folder), fill=fill)
        value = Value(engine, names, eraser, explained.answer, batch_size=batch_size)
        value.within = within or value.within
        value.log = log or QuietLog()
        value.log.stage("deletion and insertion", 2 * (orders + 1) * count * len(names), "passes")
        areas = [
            (area(value, order, count, True), area(value, order, count, False)) for order in [ranked, *random]
        ]
    return Curves(
        deletion=areas[0][0],
        insertion=areas[0][1],
        random_deletion=fmean(gone for gone, _ in areas[1:]),
        random_insertion=fmean(come for _, come in areas[1:]),
        orders=orders,
    )


def area(value: Value, order: Sequence[int], count: int, deleting: bool) -> float:
    """Return the area under the value, from 0 to 1 along the units in ``order``, by trapezoids."""
    masks = []
    for step in range(count + 1):
        moved = set(order[:step])
        masks.append([(at not in moved) if deleting else (at in moved) for at in range(count)])
    found = value(masks)
    full, empty = (found[0], found[-1]) if deleting else (found[-1], found[0])
    if full == empty:
        raise ConfigError("the question is worth nothing to this answer, so no order of its parts is better")
    scaled = [(each - empty) / (full - empty) for each in found]
    return fmean((a + b) / 2 for a, b in pairwise(scaled))

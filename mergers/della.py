"""DELLA: drop small changes more often than large ones, elect signs, average what agrees (Deep et al. 2024).

DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, arXiv:2406.11617,
sections 3.1 to 3.3 (drop, elect, fuse).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mergers._della import sparse
from mergers._ops import (
    Elect,
    Normalise,
    PerModel,
    Rescale,
    Sign,
    agree,
    on_base,
    one_of,
    per_model,
)
from mergers._place import NOWHERE, Place
from mergers.della_linear import survey

__all__ = ["PRESETS", "merge", "survey"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"rescale": "density", "elect": "raw", "normalise": "count"},
    "mergekit": {"rescale": "l1", "normalise": "weights", "density": 1.0, "epsilon": 0.15},
}
PIECES = "rows"


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    epsilon: PerModel = 0.1,
    scale: float = 1.0,
    rescale: Rescale = "density",
    elect: Elect = "weighted",
    sign: Sign = "sum",
    normalise: Normalise = "weights",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the pruned deltas that have the majority's sign)``."""
    one_of("elect", elect, Elect)
    one_of("sign", sign, Sign)
    one_of("normalise", normalise, Normalise)
    parts = sparse(tensors, base, density, epsilon, rescale, place)
    weights = per_model(weight, len(parts))
    return on_base(agree(parts, weights, elect=elect, sign=sign, normalise=normalise), base, scale)

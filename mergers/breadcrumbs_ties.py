"""Breadcrumbs with TIES: drop small changes and outliers, then elect signs and average what agrees.

Masks of Model Breadcrumbs (arXiv:2312.06795, section 3.1) in front of the election and the disjoint mean of
TIES (arXiv:2306.01708, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import (
    Elect,
    Normalise,
    PerModel,
    Sign,
    agree,
    crumbs,
    deltas,
    on_base,
    one_of,
    per_model,
)
from mergers._place import NOWHERE, Place
from mergers.breadcrumbs import IDENTITY, survey

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IDENTITY", "PRESETS", "merge", "survey"]

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {"density": 1.0, "gamma": 0.01, "normalise": "none"}}
PIECES = "any"
ARRAYS = True


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.15,
    gamma: PerModel = 0.01,
    scale: float = 1.0,
    elect: Elect = "weighted",
    sign: Sign = "sum",
    normalise: Normalise = "weights",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the masked deltas that have the majority's sign)``."""
    one_of("elect", elect, Elect)
    one_of("sign", sign, Sign)
    one_of("normalise", normalise, Normalise)
    parts = [crumbs(d, density, gamma, place, i, len(tensors)) for i, d in enumerate(deltas(tensors, base))]
    weights = per_model(weight, len(parts))
    return on_base(agree(parts, weights, elect=elect, sign=sign, normalise=normalise), base, scale)

"""DARE-TIES: drop at random and rescale, then elect signs and average what agrees (Yu et al. 2023).

Language Models are Super Mario, arXiv:2311.03099, sections 3.2 and 3.3, in front of the election and
the disjoint mean of TIES (arXiv:2306.01708, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
from mergers.dare_linear import sparse_deltas, survey

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PRESETS", "merge", "survey"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"rescale": "density", "elect": "raw", "normalise": "count"},
    "mergekit": {"rescale": "l1", "elect": "weighted", "normalise": "none", "density": 1.0},
    "peft": {"rescale": "density", "elect": "raw", "normalise": "count"},
}


PIECES = "any"
ARRAYS = True


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    scale: float = 1.0,
    rescale: Rescale = "density",
    elect: Elect = "weighted",
    sign: Sign = "sum",
    normalise: Normalise = "weights",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the dropped and rescaled deltas that have the majority's sign)``."""
    one_of("elect", elect, Elect)
    one_of("sign", sign, Sign)
    one_of("normalise", normalise, Normalise)
    parts = sparse_deltas(tensors, base, density, rescale, place)
    weights = per_model(weight, len(parts))
    return on_base(agree(parts, weights, elect=elect, sign=sign, normalise=normalise), base, scale)

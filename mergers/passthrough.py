"""Passthrough: one model as it is, for stacking layers of several models (Kim et al. 2024).

SOLAR 10.7B: Scaling Large Language Models with Simple yet Effective Depth Up-Scaling, arXiv:2312.15166,
section 2. Which layers go where is told by the slices of a mergekit file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import deltas, on_base

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
MODELS = 1
NEEDS_BASE = False
PIECES = "any"
ARRAYS = True


def merge(tensors: Sequence[Tensor], base: Tensor | None, *, scale: float = 1.0) -> Tensor:
    """Return ``base + scale * (tensor - base)``; of a model without a base its tensor times ``scale``."""
    return on_base(deltas(tensors, base)[0], base, scale)

"""Cat: put adapters side by side, so that the result computes the weighted sum of all of them exactly.

LoRA Soups: Merging LoRAs for Practical Skill Composition Tasks (Prabhakar et al. 2024), arXiv:2410.13025,
section 3.2, with given instead of learned weights. It is task arithmetic without scaling; its rank is the
sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mergers._ops import PerModel, add_up, deltas, on_base, per_model

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "peft": {}}
PIECES = "any"


def coefficients(count: int, *, weight: PerModel = 1.0) -> list[float]:
    """Return what each model's delta is multiplied by: its weight."""
    return per_model(weight, count)


def merge(tensors: Sequence[Tensor], base: Tensor | None, *, weight: PerModel = 1.0) -> Tensor:
    """Return ``base + sum_i w_i (tensor_i - base)``."""
    parts = deltas(tensors, base)
    return on_base(add_up(parts, per_model(weight, len(parts)), "none"), base)

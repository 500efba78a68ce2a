"""Model stock row by row: each row goes as far from the base as the angles between the models' rows suggest.

Model Stock: All we need is just a few fine-tuned models (Jang et al. 2024), arXiv:2403.19522, section 4.1,
eq. 2, with an angle for each row (the last axis) in place of one for the tensor: mergekit's ``filter_wise``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mergers._ops import deltas, on_base
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
PIECES = "rows"


def merge(tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
    """Return ``base + t * mean(delta_i)`` with one t a row; where models point apart the base stays."""
    parts = deltas(tensors, base)
    mean = torch.stack(parts).mean(dim=0)
    if len(parts) > 1:
        cosine = torch.stack([_cosine(one, other) for one, other in combinations(parts, 2)]).mean(dim=0)
        below = 1 + (len(parts) - 1) * cosine
        flat = below.abs() < 1e-6
        mean *= torch.where(flat, 0.0, len(parts) * cosine / torch.where(flat, 1.0, below)).to(mean.dtype)
    return on_base(mean, base)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosines of the angles between rows [..., 1] in float64; 0 where one of them is zero."""
    one, other = one.double(), other.double()
    size = one.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)
    product = (one * other).sum(dim=-1, keepdim=True)
    return (product / torch.where(size > 0, size, 1.0)).clamp_(-1, 1)

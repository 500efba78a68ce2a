"""NuSLERP row by row or column by column: SLERP of two models with an angle of its own for each vector.

Spherical interpolation as in Shoemake 1985, doi:10.1145/325334.325242, section 3.3, with
t = w_2 / (w_1 + w_2), along one axis of a tensor: mergekit's nuslerp with ``nuslerp_flatten: false``, by rows
or, with its ``nuslerp_row_wise``, by columns. Parallel vectors are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mergers._ops import PerModel, deltas, on_base, one_of, per_model
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

Axis = Literal["row", "column"]
PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
MODELS = 2
NEEDS_BASE = False
#: Sines of angles below this are too small to divide by.
STRAIGHT = 1e-6


def merge(
    tensors: Sequence[Tensor], base: Tensor | None, *, weight: PerModel = 1.0, along: Axis = "row"
) -> Tensor:
    """Return the points on the arcs between two models' vectors that their weights decide.

    A ``row`` runs along the last axis of a tensor, a ``column`` along the first.
    """
    one_of("along", along, Axis)
    first, second = deltas(tensors, base)
    weights = per_model(weight, 2)
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    axis = -1 if along == "row" else 0
    one, other = first.double(), second.double()
    size = one.norm(dim=axis, keepdim=True) * other.norm(dim=axis, keepdim=True)
    product = (one * other).sum(dim=axis, keepdim=True)
    angle = torch.acos((product / torch.where(size > 0, size, 1.0)).clamp_(-1, 1))
    sine = torch.sin(angle)
    straight = sine < STRAIGHT
    divisor = torch.where(straight, 1.0, sine)
    left = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / divisor)
    right = torch.where(straight, t, torch.sin(t * angle) / divisor)
    return on_base((one * left + other * right).to(first.dtype), base)

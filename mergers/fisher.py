"""Fisher merging: every element is averaged by how much its model's answers depend on it (Matena 2022).

Merging Models with Fisher-Weighted Averaging (Matena and Raffel), arXiv:2111.09832, section 2: the mode of
the product of the models' posteriors, each a normal distribution with its diagonal Fisher information as
precision: theta = sum_i w_i F_i theta_i / sum_i w_i F_i. The F_i come from few samples
(`studio/statistics.py`, kind fisher).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._ops import PerModel, deltas, on_base, per_model
from mergers._place import NOWHERE, Place
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
PIECES = "any"
#: Per model one number >= 0 for each element, or nothing.
STATISTICS = "fisher"


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    floor: float = 1e-12,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * sum_i w_i F_i delta_i / sum_i w_i F_i``, element by element.

    ``floor`` > 0 is the least information that an element is taken to have: where no answer depends on it,
    the models are averaged by ``weight``, as they are in tensors without statistics.
    """
    if floor <= 0:
        raise ConfigError(f"floor must be larger than 0, not {floor:g}")
    weights = per_model(weight, len(tensors))
    if min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError("the weights of fisher must not be negative, and not all 0")
    parts = deltas(tensors, base)
    total, divisor = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for i, (part, share) in enumerate(zip(parts, weights, strict=True)):
        if place.statistics is None:
            own = torch.full_like(part, share)
        else:
            # Relative to the floor the smallest numbers stay clear of what float32 takes for zero.
            own = place.statistics[i].to(part).view_as(part).div(floor).clamp_(min=1.0).mul_(share)
        divisor.add_(own)
        total.add_(part.mul_(own))
    return on_base(total.div_(divisor), base, scale)

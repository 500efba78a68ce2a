"""RAM: average changes where models overlap, keep them whole where only one model changed anything.

Reinforced Agent Merging (2026), arXiv:2601.13572, section 4: shared and unique parameters are told apart by
``|delta| > epsilon``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._ops import deltas, on_base
from mergers._place import NOWHERE, Place

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "mergekit": {}}
PIECES = "any"


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    epsilon: float = 1e-5,
    scale: float = 1.0,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (sum of the changes above epsilon / number of models that have one)``."""
    del place
    parts = deltas(tensors, base)
    total, count = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for part in parts:
        changed = part.abs() > epsilon
        total.add_(part.mul_(changed))
        count.add_(changed)
    return on_base(total.div_(count.clamp_(min=1)), base, scale)

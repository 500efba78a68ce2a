"""RAM+: as RAM, and what only one model changed is strengthened by how much that model has to share.

Behavior Knowledge Merge in Reinforced Agentic Models (Yuan et al. 2026), arXiv:2601.13572, section 4:
averaging shared parameters weakens a model, so the more of its changes are shared, the more its unique ones
are scaled up. Both are counted tensor by tensor ("tensor-local"), as mergekit's method of this name does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergers._ops import deltas, on_base
from mergers._place import NOWHERE, Look, Place
from studio.errors import ConfigError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
PIECES = "any"


def survey(look: Look, *, epsilon: float = 1e-5, **_: Any) -> list[tuple[int, int]]:
    """Return per model how many of its changes are shared and how many unique, in a tensor of pieces."""
    total = np.zeros((look.count, 2), dtype=np.int64)
    for _place, parts in look.pieces():
        total += np.array(_counts(_changed(parts, epsilon)))
    return [(int(shared), int(unique)) for shared, unique in total]


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
    scale: float = 1.0,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the shared changes, and the unique ones times 1 + r * rho)``.

    A change is a delta above ``epsilon``; ``rho`` is the number of a model's shared changes over that of its
    unique ones, at most ``alpha`` >= 0.
    """
    if alpha < 0:
        raise ConfigError(f"alpha must be 0 or larger, not {alpha:g}")
    parts = deltas(tensors, base)
    changed = _changed(parts, epsilon)
    found = _counts(changed) if place.survey is None else place.survey
    count = _sum(changed)
    alone = count == 1
    total = torch.zeros_like(parts[0])
    for part, own, (shared, unique) in zip(parts, changed, found, strict=True):
        rho = min(shared / unique, alpha) if unique else 0.0
        part.mul_(own)
        total.add_(torch.where(alone, part * (1 + r * rho), part))
    return on_base(total.div_(count.clamp_(min=1)), base, scale)


def _changed(parts: Sequence[Tensor], epsilon: float) -> list[Tensor]:
    return [part.abs() > epsilon for part in parts]


def _sum(changed: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(changed)).sum(dim=0, dtype=torch.int32)


def _counts(changed: Sequence[Tensor]) -> list[tuple[int, int]]:
    count = _sum(changed)
    return [(int((own & (count > 1)).sum()), int((own & (count == 1)).sum())) for own in changed]

"""SCE: select where the models differ most, weigh them by energy, erase minority signs (Wan et al. 2024).

FuseChat: Knowledge Fusion of Chat Models, arXiv:2408.07990, section 3.3, "Select, Calculate, Erase".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._ops import deltas, on_base
from mergers._place import NOWHERE, Place
from mergers._select import cut, shrink
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"paper": {"topk": 0.1}, "mergekit": {"topk": 1.0}}
IDENTITY = {"topk": 1.0}


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    topk: float = 0.1,
    scale: float = 1.0,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the selected deltas of majority sign, weighted by their energy)``.

    ``topk`` in (0, 1] is the share kept of the elements with the largest variance across models. A model's
    weight is the mean square of what was selected of it.
    """
    del place
    if not 0 < topk <= 1:
        raise ConfigError(f"topk must lie in (0, 1], not {topk:g}")
    parts = deltas(tensors, base)
    if topk < 1 and parts[0].numel():
        spread = torch.stack(parts).var(dim=0, unbiased=False).view(-1)
        k = int(int(torch.count_nonzero(spread)) * topk)
        mask = (shrink(spread, cut(spread, k), 0) > 0).view_as(parts[0]) if k else torch.zeros_like(parts[0])
        for part in parts:
            part.mul_(mask)
    energy = [float(part.double().square().mean()) if part.numel() else 0.0 for part in parts]
    total = sum(energy)
    shares = [value / total for value in energy] if total > 1e-30 else [1 / len(parts)] * len(parts)
    votes = torch.stack(parts).sum(dim=0)
    majority = torch.where(votes >= 0, 1.0, -1.0).to(votes.dtype)
    merged, divisor = torch.zeros_like(votes), torch.zeros_like(votes)
    for part, share in zip(parts, shares, strict=True):
        agreeing = part.mul_(majority).relu_()
        merged.add_(agreeing, alpha=share)
        divisor.add_(agreeing.sign(), alpha=share)
    merged.mul_(majority).div_(divisor.clamp_(min=1e-6))
    return on_base(merged, base, scale)

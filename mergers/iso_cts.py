"""Iso-CTS: a common subspace, each task's own directions beside it, all equally strong (Marczak et al. 2025).

No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, arXiv:2502.04959,
section 4.2 and algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._matrix import effective_rank, merge_matrices, nearest_orthogonal, thin_svd
from mergers._ops import PerModel, add_up, per_model
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"paper": {"common": 0.8}}
INVARIANT = "both"
#: It evens out or cuts strengths, of a single model as well.
KEEPS_ONE = False


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    common: float = 0.8,
) -> Tensor:
    """Return ``base + scale * mean(S) U V^T`` with U, V of the common and of the task-specific directions.

    ``common`` in (0, 1] is the share of the rank given to the leading directions of the summed deltas; the
    rest is divided among the tasks, for the leading directions of what the common ones leave of each delta.
    """
    if not 0 < common <= 1:
        raise ConfigError(f"common must lie in (0, 1], not {common:g}")
    weights = per_model(weight, len(tensors))

    def combine(parts: list[Tensor]) -> Tensor:
        total = add_up([parts[0].clone(), *parts[1:]], weights, "none")
        u, s, vt = thin_svd(total)
        rank = effective_rank(s)
        if not rank:
            return total
        kept = max(1, round(common * rank))
        own = (rank - kept) // len(parts)
        us, ss, vs = [u[:, :kept]], [s[:kept]], [vt[:kept]]
        for part, factor in zip(parts, weights, strict=True):
            if own:
                rest = part * factor
                rest = rest - u[:, :kept] @ (u[:, :kept].T @ rest)
                lu, ls, lvt = thin_svd(rest)
                some = min(own, effective_rank(ls))
                us.append(lu[:, :some])
                ss.append(ls[:some])
                vs.append(lvt[:some])
        left, right = nearest_orthogonal(torch.cat(us, dim=1)), nearest_orthogonal(torch.cat(vs))
        return torch.cat(ss).mean() * (left @ right)

    return merge_matrices(tensors, base, combine, scale)

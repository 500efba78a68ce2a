"""TSV-M: concatenate each task's leading singular vectors, then take the overlap between tasks out.

Task Singular Vectors: Reducing Task Interference in Model Merging (Gargiulo et al. 2024), arXiv:2412.00081,
section 4.2 and algorithm 1: U = [U_1 .. U_n] and V are replaced by their nearest orthogonal matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._matrix import effective_rank, merge_matrices, nearest_orthogonal, thin_svd
from mergers._ops import PerModel, per_model
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
#: Turning all deltas from the left or the right turns the result: it may be computed on small cores.
INVARIANT = "both"
#: It evens out or cuts strengths, of a single model as well.
KEEPS_ONE = False


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    share: float = 1.0,
) -> Tensor:
    """Return ``base + scale * U' S V'^T`` of the tasks' leading singular triples, whitened.

    Each of n tasks brings 1/n of its rank, times ``share`` in (0, 1]. Equal tasks share their vectors, so
    that copies of one model merge to its leading 1/n.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share must lie in (0, 1], not {share:g}")
    weights = per_model(weight, len(tensors))

    def combine(parts: list[Tensor]) -> Tensor:
        us, ss, vs = [], [], []
        for part, factor in zip(parts, weights, strict=True):
            u, s, vt = thin_svd(part)
            kept = max(1, int(effective_rank(s) * share / len(parts)))
            us.append(u[:, :kept])
            ss.append(s[:kept] * factor)
            vs.append(vt[:kept])
        left, right = nearest_orthogonal(torch.cat(us, dim=1)), nearest_orthogonal(torch.cat(vs))
        return (left * torch.cat(ss)) @ right

    return merge_matrices(tensors, base, combine, scale)

"""Iso-C: keep the directions of the summed deltas, give all of them the same strength (Marczak et al. 2025).

No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, arXiv:2502.04959,
section 4.1: of sum_i delta_i = U S V^T the result is mean(S) U V^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mergers._matrix import effective_rank, merge_matrices, thin_svd
from mergers._ops import PerModel, add_up, per_model

PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
INVARIANT = "both"
#: It evens out or cuts strengths, of a single model as well.
KEEPS_ONE = False


def merge(
    tensors: Sequence[Tensor], base: Tensor | None, *, weight: PerModel = 1.0, scale: float = 1.0
) -> Tensor:
    """Return ``base + scale * mean(S) U V^T``, over the singular values that are not zero.

    The paper averages over all of them; for deltas of low rank that would drown what was learned in
    directions that nobody trained, so only the rank that is there counts.
    """
    weights = per_model(weight, len(tensors))

    def combine(parts: list[Tensor]) -> Tensor:
        total = add_up(parts, weights, "none")
        u, s, vt = thin_svd(total)
        kept = effective_rank(s)
        if not kept:
            return total
        return s[:kept].mean() * (u[:, :kept] @ vt[:kept])

    return merge_matrices(tensors, base, combine, scale)

"""Core space: merge low-rank deltas in the small space that all of them span, without loss (Panariello 2025).

Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv:2509.17786, section 3: with common
orthonormal bases U of all columns and V of all rows each delta is U M_i V^T; the cores M_i are merged by
another method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._matrix import effective_rank, merge_matrices, thin_svd
from mergers._ops import PerModel, one_of
from mergers._place import NOWHERE, Place
from mergers._within import Inner, merge_within

PRESETS: dict[str, dict[str, Any]] = {"paper": {"inner": "ties"}}
INVARIANT = "both"


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    inner: Inner = "ties",
    weight: PerModel = 1.0,
    density: PerModel = 0.2,
    scale: float = 1.0,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * U M V^T`` with M the inner method's merge of the cores U^T delta_i V.

    The bases are the singular vectors of all deltas side by side and on top of each other; the paper takes
    those of the factors, which depend on how a delta happens to be split.
    """
    one_of("inner", inner, Inner)

    def combine(parts: list[Tensor]) -> Tensor:
        left, values, _ = thin_svd(torch.cat(parts, dim=1))
        _, others, right = thin_svd(torch.cat(parts))
        if not effective_rank(values):
            return torch.zeros_like(parts[0])
        u, vt = left[:, : effective_rank(values)], right[: effective_rank(others)]
        cores = [u.T @ part @ vt.T for part in parts]
        return u @ merge_within(inner, cores, weight, density, place) @ vt

    return merge_matrices(tensors, base, combine, scale)

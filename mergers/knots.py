"""KnOTS: align the tasks by one joint SVD, merge them there (Stoica et al. 2024).

Model merging with SVD to tie the Knots, arXiv:2410.19735, section 4: [delta_1 .. delta_n] = U S [V_1 ..
V_n]^T; the V_i are merged by another method (KnOTS-TIES, KnOTS-DARE-TIES ...) and the result is U S V^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mergers._matrix import effective_rank, merge_matrices, thin_svd
from mergers._ops import PerModel, one_of
from mergers._place import NOWHERE, Place
from mergers._within import Inner, merge_within

PRESETS: dict[str, dict[str, Any]] = {"paper": {"inner": "ties", "density": 0.3}}
#: Only turning from the left turns the result; from the right it is element by element.
INVARIANT = "left"
Carry = Literal["directions", "strengths"]


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    inner: Inner = "ties",
    weight: PerModel = 1.0,
    density: PerModel = 0.3,
    scale: float = 1.0,
    carry: Carry = "directions",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * U S V^T`` with V the inner method's merge of the V_i.

    ``carry: strengths`` lets the inner method see S V_i^T instead, so that it trims weak directions first.
    """
    one_of("inner", inner, Inner)
    one_of("carry", carry, Carry)

    def combine(parts: list[Tensor]) -> Tensor:
        u, s, vt = thin_svd(torch.cat(parts, dim=1))
        kept = effective_rank(s)
        if not kept:
            return torch.zeros_like(parts[0])
        strengths = s[:kept, None]
        own = [v * strengths if carry == "strengths" else v for v in vt[:kept].chunk(len(parts), dim=1)]
        merged = merge_within(inner, own, weight, density, place)
        return u[:, :kept] @ (merged if carry == "strengths" else strengths * merged)

    return merge_matrices(tensors, base, combine, scale)

"""Low-rank mathematics: sums of factored deltas without the dense matrix, and dense deltas factored again.

A sum of deltas ``sum_i c_i b_i a_i`` is ``B @ A`` with the factors side by side. With thin QR decompositions
``B = Q R`` and ``A^T = P S`` its singular values are those of the small core ``R S^T`` (Golub and Van Loan,
Matrix Computations, 4th ed., section 8.6), so nothing larger than the factors is ever decomposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mergers._matrix import effective_rank
from studio.adapters import Factors
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

Rank = int | float | Literal["lossless"]


class Pair(NamedTuple):
    """Factors ``b`` [rows, r] and ``a`` [r, columns], and the share of the squared norm that they keep."""

    b: Tensor
    a: Tensor
    energy: float


def concatenate(factors: Sequence[Factors], coefficients: Sequence[float]) -> Pair:
    """Return the sum of scaled deltas exactly, at the sum of the ranks."""
    b = torch.cat([f.b * c for f, c in zip(factors, coefficients, strict=True)], dim=1)
    return Pair(b, torch.cat([f.a for f in factors]), 1.0)


def compress(b: Tensor, a: Tensor, rank: Rank) -> Pair:
    """Return ``b @ a`` at a rank: lossless (what is needed), a number, or the least that keeps a share."""
    q, r = torch.linalg.qr(b)
    p, s = torch.linalg.qr(a.T)
    u, values, vt = torch.linalg.svd(r @ s.T, full_matrices=False)
    kept, energy = chosen_rank(values, rank)
    root = values[:kept].sqrt()
    return Pair(q @ (u[:, :kept] * root), (root[:, None] * vt[:kept]) @ p.T, energy)


def factorise(delta: Tensor, rank: Rank) -> Pair:
    """Return a dense matrix [rows, columns] as factors of the rank asked for."""
    u, values, vt = torch.linalg.svd(delta, full_matrices=False)
    kept, energy = chosen_rank(values, rank)
    root = values[:kept].sqrt()
    return Pair(u[:, :kept] * root, root[:, None] * vt[:kept], energy)


def chosen_rank(values: Tensor, rank: Rank) -> tuple[int, float]:
    """Return how many singular values to keep (at least one) and the share of energy that they hold."""
    squares = values.double().square()
    total = float(squares.sum())
    if total == 0:
        return 1, 1.0
    needed = effective_rank(values)
    if rank == "lossless":
        return needed, 1.0
    if isinstance(rank, float):
        share = squares.cumsum(0) / total
        kept = min(needed, int((share < rank).sum()) + 1)
    else:
        kept = min(needed, rank)
    return kept, min(1.0, float(squares[:kept].sum()) / total)

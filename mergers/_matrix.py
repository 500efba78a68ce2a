"""Merging whole matrices by their singular vectors: what the methods of that kind share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mergers._ops import deltas, on_base
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Singular values below this share of the largest are rounding, not content (float32).
TINY = 1e-6


def merge_matrices(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    combine: Callable[[list[Tensor]], Tensor],
    scale: float = 1.0,
) -> Tensor:
    """Apply ``combine`` to the deltas as matrices [rows, columns]; vectors and scalars are averaged.

    Kernels are flattened to [outputs, rest].
    """
    parts = deltas(tensors, base)
    shape = parts[0].shape
    if len(shape) < 2 or not parts[0].numel():
        return on_base(torch.stack(parts).mean(dim=0), base)
    merged = combine([part.reshape(shape[0], -1) for part in parts])
    return on_base(merged.reshape(shape).contiguous(), base, scale)


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``u`` [m, r], ``s`` [r], ``vt`` [r, n] with r = min(m, n); very long matrices go through QR."""
    rows, columns = matrix.shape
    if rows > 4 * columns:
        q, small = torch.linalg.qr(matrix)
        u, s, vt = torch.linalg.svd(small, full_matrices=False)
        return q @ u, s, vt
    if columns > 4 * rows:
        u, s, vt = thin_svd(matrix.T)
        return vt.T, s, u.T
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def effective_rank(values: Tensor) -> int:
    """Return how many singular values are more than rounding."""
    return int((values > TINY * values[0]).sum()) if values.numel() else 0


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """Return the matrix with orthonormal columns (or rows) that is nearest, the Procrustes solution.

    Schoenemann 1966, doi:10.1007/BF02289451: of ``P D Q^T`` it is ``P Q^T``.
    """
    u, s, vt = thin_svd(matrix)
    kept = effective_rank(s)
    return u[:, :kept] @ vt[:kept]

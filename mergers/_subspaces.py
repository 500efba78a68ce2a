"""Which directions deltas act in: subspaces of outputs and of inputs, and how far two of them overlap.

The overlap of subspaces with orthonormal bases Q and P is ``|Q^T P|^2 / min(r, s)``: the mean squared cosine
of their principal angles (Bjorck and Golub 1973; on LoRA: Hu et al. 2021, arXiv:2106.09685, section 7.2).
Unrelated subspaces of ranks r and s in d dimensions have ``max(r, s) / d`` on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studio.adapters import Factors

#: Directions of a full model's delta that are compared, and how many more are looked at to find them.
DIRECTIONS, SPARE = 16, 8
#: Singular values below this share of the largest are rounding, not content.
TINY = 1e-5

Basis = tuple[Tensor, Tensor]
#: Yields (first row, the deltas' rows), the whole matrix once.
Rows = Callable[[], Iterable[tuple[int, list[Tensor | None]]]]


def factor_basis(factors: Factors) -> Basis | None:
    """Return orthonormal bases of outputs [outputs, r] and inputs [inputs, r]; None for a zero delta."""
    q, r = torch.linalg.qr(factors.b.double())
    p, s = torch.linalg.qr(factors.a.T.double())
    u, values, vt = torch.linalg.svd(r @ s.T)
    kept = int((values > TINY * values[0]).sum()) if values[0] > 0 else 0
    if not kept:
        return None
    columns, rows = q @ u[:, :kept], p @ vt[:kept].T
    return (columns, rows) if factors.output_axis == 0 else (rows, columns)


def leading_bases(shape: tuple[int, int], count: int, rows: Rows, seed: int = 0) -> list[Basis | None]:
    """Return the leading singular directions of matrices that are only read row by row, three times.

    A randomised range finder with one power iteration (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4);
    exact where the rank is at most `DIRECTIONS`.
    """
    height, width = shape
    wanted = min(DIRECTIONS, min(shape) // 2)
    if wanted < 1:
        return [None] * count
    size = min(wanted + SPARE, *shape)
    draw = torch.Generator().manual_seed(seed)
    right = [torch.randn(width, size, generator=draw)] * count
    left = _times(rows, right, height)
    left = [torch.linalg.qr(each).Q for each in left]
    right = [torch.zeros(width, size) for _ in range(count)]
    for begin, parts in rows():
        for i, part in enumerate(parts):
            if part is not None:
                right[i].addmm_(part.T, left[i][begin : begin + len(part)])
    right = [torch.linalg.qr(each).Q for each in right]
    return [_cut(y, z, wanted) for y, z in zip(_times(rows, right, height), right, strict=True)]


def overlap(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Return the overlap of two subspaces, their Grassmann distance, and the overlap expected by chance."""
    size = min(one.shape[1], other.shape[1])
    cosine = torch.linalg.svdvals(one.T.double() @ other.double())[:size].clamp(max=1.0)
    distance = float(torch.arccos(cosine).square().sum().sqrt())
    return float(cosine.square().mean()), distance, min(1.0, max(one.shape[1], other.shape[1]) / len(one))


def overlaps(bases: Sequence[Basis | None]) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Yield (i, j, [outputs, inputs, distance, chance]) for all pairs of deltas that are not zero."""
    for i, one in enumerate(bases):
        for j, other in enumerate(bases):
            if j >= i and one is not None and other is not None:
                outputs, distance, by_chance = overlap(one[0], other[0])
                inputs, _, also = overlap(one[1], other[1])
                yield i, j, np.array([outputs, inputs, distance, (by_chance + also) / 2])


def pieces(height: int, width: int, elements: int) -> list[tuple[int, int]]:
    """Return the rows of a matrix in stretches of about so many elements."""
    step = max(1, elements // max(width, 1))
    return [(i, min(i + step, height)) for i in range(0, height, step)]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return a weight's shape as that of the matrix [rows, columns] that it is."""
    if len(shape) < 2:
        return math.prod(shape), 1
    return shape[0], math.prod(shape[1:])


def _times(rows: Rows, right: Sequence[Tensor], height: int) -> list[Tensor]:
    found = [torch.zeros(height, each.shape[1]) for each in right]
    for begin, parts in rows():
        for i, part in enumerate(parts):
            if part is not None:
                torch.mm(part, right[i], out=found[i][begin : begin + len(part)])
    return found


def _cut(product: Tensor, right: Tensor, wanted: int) -> Basis | None:
    u, values, vt = torch.linalg.svd(product, full_matrices=False)
    kept = min(wanted, int((values > TINY * values[0]).sum())) if values[0] > 0 else 0
    return (u[:, :kept], right @ vt[:kept].T) if kept else None

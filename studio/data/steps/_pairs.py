"""Which of many things are alike: candidates by brute force over small codes, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 512


def near_codes(
    codes: NDArray[np.uint64], bits: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (later, earlier, view of later, view of earlier) where 64-bit codes differ in at most ``bits``.

    ``codes`` [N, V] are those of N things in V views, the first view the whole thing; a view is compared
    with the other's whole only. Per pair the nearest way of comparing is yielded, in the order of the
    later; time grows with N^2 V, at some 10^8 comparisons a second.
    """
    count, views = codes.shape
    for begin in range(0, count, _BLOCK):
        block = codes[begin : begin + _BLOCK]
        end = begin + len(block)
        best = np.full((len(block), end), 255, np.uint8)
        how = np.zeros((len(block), end), np.uint8)
        for view in range(views):
            for flipped in (0, 1) if view else (0,):
                left = block[:, 0 if flipped else view, None]
                right = codes[None, :end, view if flipped else 0]
                distance = np.bitwise_count(left ^ right)
                nearer = distance < best
                best[nearer] = distance[nearer]
                how[nearer] = 2 * view + flipped
        later, earlier = np.nonzero(best <= bits)
        for i, j in zip(later.tolist(), earlier.tolist(), strict=True):
            if j < begin + i:
                view, flipped = divmod(int(how[i, j]), 2)
                yield begin + i, j, 0 if flipped else view, view if flipped else 0
        advance(len(block))


def near_vectors(
    vectors: NDArray[np.float32], least: float, advance: Callable[[int], None]
) -> Iterator[tuple[int, int]]:
    """Yield (later, earlier) where the product of unit vectors [N, D] is at least ``least``."""
    for begin in range(0, len(vectors), _BLOCK):
        block = vectors[begin : begin + _BLOCK]
        product: NDArray[Any] = block @ vectors[: begin + len(block)].T
        for i, j in zip(*(side.tolist() for side in np.nonzero(product >= least)), strict=True):
            if j < begin + i:
                yield begin + i, j
        advance(len(block))

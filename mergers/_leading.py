"""The leading singular vectors of a large matrix, without decomposing all of it.

Halko, Martinsson and Tropp, Finding Structure with Randomness, arXiv:0909.4061, algorithm 4.4: a random block
that is multiplied by the matrix and its transpose a few times, and made orthonormal in between, comes to span
the leading vectors; what is then decomposed is as small as the block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergers._factors import Pair, Rank, compress, factorise

#: Rounds of multiplication: the part that is missed shrinks with (next value / last kept) ** (2 ROUNDS + 1).
ROUNDS = 6
#: The block has half as many columns again as the rank, and at least so many more.
SPARE = 16


def approximate(delta: Tensor, rank: Rank, seed: int = 0) -> Pair:
    """Return a matrix [rows, columns] as factors; a rank small against both sides is found by a block.

    The energy told is that of these very factors. The same seed gives the same factors.
    """
    smaller = min(delta.shape)
    width = rank + max(SPARE, rank // 2) if isinstance(rank, int) else smaller
    if 3 * width > smaller:
        return factorise(delta, rank)
    assert isinstance(rank, int)
    draw = torch.Generator().manual_seed(seed)
    block = delta @ torch.randn(delta.shape[1], width, generator=draw)
    for _ in range(ROUNDS):
        block = delta @ torch.linalg.qr(delta.T @ torch.linalg.qr(block).Q).Q
    q = torch.linalg.qr(block).Q
    core = q.T @ delta
    pair = compress(q, core, rank)
    whole = float(delta.double().square().sum()) or 1.0
    seen = float(core.double().square().sum())
    return Pair(pair.b, pair.a, min(1.0, pair.energy * seen / whole))

"""NF4, the 4-bit type of QLoRA, and its double quantisation: the values that a weight had while training.

QLoRA: Efficient Finetuning of Quantized LLMs (Dettmers et al. 2023), arXiv:2305.14314, section 3: blocks of
64 values are divided by their largest magnitude and stored as the nearest of 16 quantiles of a normal
distribution (the table of appendix E). Double quantisation stores the magnitudes themselves, less their mean,
in blocks of 256 in the 8-bit type of arXiv:2110.02861, section 1.3 (dynamic tree quantisation). Rounding is
to the nearest, and to the smaller one in the middle.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

#: Values that share a magnitude, and magnitudes that share one.
BLOCK, NESTED = 64, 256
#: Appendix E.
TABLE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@cache
def dynamic_table() -> Tensor:
    """Return the 256 values of the 8-bit type: seven decades, each with twice the steps of the one below."""
    found = [0.0, 1.0]
    for decade in range(7):
        ends = torch.linspace(0.1, 1.0, 2**decade + 1)
        middles = ((ends[:-1] + ends[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        found += [*middles, *(-value for value in middles)]
    return torch.tensor(sorted(found), dtype=torch.float32)


def magnitudes(flat: Tensor, double: bool) -> Tensor:
    """Return the magnitude of each block of a flattened weight [n], as it is stored."""
    found = _blocks(flat.float().abs(), BLOCK).amax(dim=1)
    if not double:
        return found
    mean = found.mean()
    rest = _blocks(found - mean, NESTED)
    size = rest.abs().amax(dim=1, keepdim=True)
    stored = _nearest(_divided(rest, size), dynamic_table()) * size
    return stored.reshape(-1)[: len(found)] + mean


def rounded(flat: Tensor, sizes: Tensor) -> Tensor:
    """Return the values [n] that are left of a stretch from a block's beginning on, in float32.

    ``sizes`` are the magnitudes of its blocks, or those of all blocks of which these are the first.
    """
    parts = _blocks(flat.float(), BLOCK)
    # Values are divided by the true magnitude, and multiplied by what is stored of it.
    true = parts.abs().amax(dim=1, keepdim=True)
    table = torch.tensor(TABLE, dtype=torch.float32)
    return (_nearest(_divided(parts, true), table) * sizes[: len(parts), None]).reshape(-1)[: len(flat)]


def _blocks(flat: Tensor, size: int) -> Tensor:
    """Return a flat tensor [n] as blocks [ceil(n / size), size], filled up with zeros."""
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def _divided(values: Tensor, size: Tensor) -> Tensor:
    return values / torch.where(size > 0, size, 1.0)


def _nearest(values: Tensor, table: Tensor) -> Tensor:
    """Return the nearest value of an ordered table for each value."""
    return table[torch.bucketize(values, (table[1:] + table[:-1]) / 2)]

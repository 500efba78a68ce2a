"""Weighted sums of DoRA deltas, exactly, as one DoRA adapter.

A DoRA module computes ``s (W + b a)`` with ``s = m / |W + b a|`` per output (Liu et al. 2024,
arXiv:2402.09353, eq. 5); a plain LoRA module has s = 1. The weighted sum of such changes on top of W is

    W' = g W + sum_i c_i s_i b_i a_i = g (W + sum_i (c_i s_i / g) b_i a_i),    g = 1 + sum_i c_i (s_i - 1)

which is a DoRA module again, of rank sum(r), with magnitude ``g |W + B A|``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergers._factors import Pair, Rank, compress, factorise
from studio.adapters import Factors
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor


def combine(
    factors: Sequence[Factors], coefficients: Sequence[float], weight: Tensor, rank: Rank
) -> tuple[Pair, Tensor | None, float]:
    """Return the merged factors, the magnitude, and the length of the merged delta.

    Where g comes close to 0 for some output the sum is no DoRA module; it is then factored as a plain delta
    (magnitude None).
    """
    first = factors[0]
    ground = weight.float()
    scales = [f.scale(ground) if f.magnitude is not None else torch.ones(1) for f in factors]
    gain = torch.ones_like(max(scales, key=torch.numel))
    for c, scale in zip(coefficients, scales, strict=True):
        gain = gain + c * (scale - 1)
    dense = torch.zeros_like(ground)
    for f, c in zip(factors, coefficients, strict=True):
        dense.add_(f.delta(ground), alpha=c)
    norm = float(dense.norm())
    if float(gain.abs().min()) < 1e-3:
        return factorise(dense.reshape(dense.shape[0], -1), rank), None, norm
    rows = first.output_axis == 0
    bs, as_ = [], []
    for f, c, scale in zip(factors, coefficients, scales, strict=True):
        share = (c * scale / gain).flatten()
        bs.append(f.b * share[:, None] if rows else f.b)
        as_.append(f.a if rows else f.a * share[None, :])
    pair = compress(torch.cat(bs, dim=1), torch.cat(as_), rank)
    adapted = ground + (pair.b @ pair.a).reshape(first.shape)
    length = adapted.transpose(0, first.output_axis).flatten(1).norm(dim=1)
    return pair, gain.flatten() * length, norm

"""Arcee Fusion: take over only the changes that matter, by their size and their effect on a softmax.

From mergekit's method of this name (Arcee AI 2025; no paper). A change's importance is its magnitude times
the divergence of Kullback and Leibler 1951, doi:10.1214/aoms/1177729694, section 2, between the softmax of
its row before and after. What lies above a tensor's median + 1.5 x its interquartile range is taken over, a
fence like those of Tukey 1977, Exploratory Data Analysis, chapter 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._gram import Origin
from mergers._ops import deltas, on_base, one_of
from mergers._place import NOWHERE, Place
from mergers._select import cut
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

#: mergekit takes the softmax of the weights themselves.
PRESETS: dict[str, dict[str, Any]] = {"mergekit": {"origin": "zero"}}
MODELS = 1
KEEPS_ONE = False
#: Keeps a softmax's logarithm finite.
EPSILON = 1e-8


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    origin: Origin = "base",
    scale: float = 1.0,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (the important part of the only model's delta)``.

    ``origin`` says what rows are compared: those of the weights before and after (zero), or a delta's with no
    change at all (base), which is nearly the same for small weights and all that an adapter tells. Quartiles
    are those of the whole tensor; mergekit takes them of a random million where it is larger.
    """
    del place
    one_of("origin", origin, Origin)
    delta = deltas(tensors, base)[0]
    if not delta.numel():
        return on_base(delta, base, scale)
    if origin == "zero" and base is not None:
        before, after = base.to(delta.dtype), tensors[0].to(delta.dtype)
    else:
        before, after = torch.zeros_like(delta), delta
    importance = delta.abs().mul_(_divergence(after, before))
    flat = importance.reshape(-1)
    low, middle, high = (_quantile(flat, share) for share in (0.25, 0.5, 0.75))
    return on_base(delta.mul_(importance >= middle + 1.5 * (high - low)), base, scale)


def _divergence(after: Tensor, before: Tensor) -> Tensor:
    """Return by how much the softmax of each row changes [..., 1], never below 0."""
    p, q = (torch.softmax(rows, dim=-1) + EPSILON for rows in (after, before))
    return torch.sum(p * torch.log(p / q), dim=-1, keepdim=True).clamp_(min=0)


def _quantile(values: Tensor, share: float) -> float:
    """Return the value below which a share of all lies, rounded down to one of them."""
    count = values.numel()
    return cut(values, count - int(share * (count - 1))).threshold

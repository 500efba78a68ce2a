"""Attention of short rows and its gradients by hand, with rotary positions and shared keys and values.

The scores of a whole batch are held at once: for rows of some hundred tokens they are small, and the products
and one softmax take less time than a kernel made for long rows.
Tensors here are [B, H, L, E]: rows, heads, tokens, a head's width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys [B, H, L, E] by their positions, cos and sin [B, 1, L, E] (RoPE by halves)."""
    half = heads.shape[-1] // 2
    made = torch.empty(heads.shape, dtype=heads.dtype)
    torch.mul(heads, cos, out=made)
    made[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    made[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return made


def turned_back(gradient: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the gradient of what `rotated` got, as rows of tokens [B, L, H, E]."""
    half = gradient.shape[-1] // 2
    b, h, length, width = gradient.shape
    rows = torch.empty((b, length, h, width), dtype=gradient.dtype)
    made = rows.transpose(1, 2)
    torch.mul(gradient, cos, out=made)
    made[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
    made[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
    return rows


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return what queries [B, H, Q, E] read of keys and values [B, G, L, E], and their weights.

    H / G heads in a row share a key. ``mask`` [B or 1, 1, Q, L] is added to the scores; None hides nothing.
    What is read is [B, H, Q, E], the weights [B, H, Q, L].
    """
    b, h, q, width = query.shape
    groups, length = key.shape[1], key.shape[2]
    shared = query.reshape(b * groups, h // groups * q, width)
    keys, values = key.reshape(b * groups, length, width), value.reshape(b * groups, length, width)
    scores = torch.bmm(shared, keys.transpose(1, 2)).mul_(scale).view(b, h, q, length)
    if mask is not None:
        scores.add_(mask)
    weights = torch.softmax(scores, -1)
    read = torch.bmm(weights.view(b * groups, -1, length), values)
    return read.view(b, h, q, width), weights


def attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, weights: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value from that of what was read, [B, H, Q, E]."""
    b, h, q, width = query.shape
    groups, length = key.shape[1], key.shape[2]
    given = gradient.reshape(b * groups, h // groups * q, width)
    shared, held = query.reshape(given.shape), weights.view(b * groups, -1, length)
    keys, values = key.reshape(b * groups, length, width), value.reshape(b * groups, length, width)
    to_weights = torch.bmm(given, values.transpose(1, 2))
    to_scores = torch._softmax_backward_data(to_weights, held, -1, to_weights.dtype).mul_(scale)
    to_query = torch.bmm(to_scores, keys)
    to_key = torch.bmm(to_scores.transpose(1, 2), shared)
    to_value = torch.bmm(held.transpose(1, 2), given)
    return to_query.view(query.shape), to_key.view(key.shape), to_value.view(value.shape)

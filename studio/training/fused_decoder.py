"""The arithmetic of a decoder layer as one operation: forward, and all gradients by hand.

    h = x + O attention(rope(Q n), rope(K n), V n)     n = norm(x)
    y = h + D (silu(G m) * U m)                        m = norm(h)

The norm is RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4), the feed-forward part SwiGLU
(Shazeer 2020, arXiv:2002.05202, equation 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from studio.training.fused_attention import attend, attend_backward, rotated, turned_back
from studio.training.fused_linear import TENSORS, Projection

#: The linear layers, in the order in which `decoder_layer` takes them.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a layer is no tensor: a head's width, scales, and whether weights' sums are kept."""

    width: int
    scale: float
    first_eps: float
    second_eps: float
    scalings: tuple[float, ...]
    keeps: bool

    def split(self, rows: Tensor, b: int) -> Tensor:
        """Return rows of tokens [B L, H E] as heads [B, H, L, E], a view."""
        return rows.view(b, -1, rows.shape[-1] // self.width, self.width).transpose(1, 2)


def decoder_layer(
    shape: Shape,
    x: Tensor,
    angles: tuple[Tensor, Tensor],
    mask: Tensor,
    chosen: Tensor | None,
    norms: tuple[Tensor, Tensor],
    projections: Sequence[Projection],
) -> Tensor:
    """Return a layer's output [B, L, D] for x [B, L, D].

    Args:
        shape: what is no tensor.
        x: hidden states, fp32 on a CPU.
        angles: cosines and sines of the positions, [B or 1, L, E] each.
        mask: what is added to the scores of the queries, [B or 1, 1, Q, L].
        chosen: the places [B, Q] of the only tokens whose output is wanted, the others get zeros; None: all.
        norms: the weights [D] of both norms.
        projections: the linear layers, in the order of `LINEARS`.
    """
    flat = [tensor for each in projections for tensor in each[:TENSORS]]
    found: Tensor = _DecoderLayer.apply(shape, x, *angles, mask, chosen, *norms, *flat)
    return found


def _of(chosen: Tensor | None, angles: Tensor) -> Tensor:
    """Return the cosines or sines [B or 1, L, E] of the tokens that ask, [B or 1, 1, Q, E]."""
    if chosen is not None:
        index = chosen[..., None].expand(-1, -1, angles.shape[-1])
        angles = angles.expand(len(chosen), -1, -1).gather(1, index)
    return angles[:, None]


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm of rows [M, D], and what each of them was multiplied by [M, 1]."""
    scale = (x * x).mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * scale).mul_(weight), scale


def _normed_backward(
    dn: Tensor, x: Tensor, scale: Tensor, weight: Tensor, to_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the rows x [M, D] that were normed, and of the weight."""
    found = (dn * x).mul_(scale).sum(0) if to_weight else None
    dx = dn * weight
    along = (dx * x).mean(-1, keepdim=True).mul_(scale).mul_(scale).mul_(scale)
    return dx.mul_(scale).addcmul_(x, along, value=-1), found


def _linears(shape: Shape, flat: Sequence[Any]) -> list[Projection]:
    """Return the linear layers whose tensors are ``flat``, in the order of `LINEARS`."""
    return [
        Projection(*flat[TENSORS * number : TENSORS * (number + 1)])._replace(scaling=scaling)
        for number, scaling in enumerate(shape.scalings)
    ]


def _summed(linears: Sequence[Projection], asking: int, rows: int) -> list[Projection]:
    """Return the linear layers with their sums: keys and values of all ``rows``, the others of ``asking``."""
    return [
        each.summed(rows if name in ("k_proj", "v_proj") else asking)
        for name, each in zip(LINEARS, linears, strict=True)
    ]


class _DecoderLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shape: Shape, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Tensor | None,
        first: Tensor, second: Tensor, *flat: Tensor | None,
    ) -> Tensor:  # fmt: skip
        b, length, width = x.shape
        rows = x.reshape(-1, width)
        n, n_scale = _normed(rows, first, shape.first_eps)
        index = None if chosen is None else (chosen + torch.arange(b)[:, None] * length).view(-1)
        asks, left = (n, rows) if index is None else (n[index], rows[index])
        linears = _summed(_linears(shape, flat), len(asks), len(n))
        q, k, v, o, gate, up, down = linears
        angles = _of(chosen, cos), _of(chosen, sin), _of(None, cos), _of(None, sin)
        query = rotated(shape.split(q.forward(asks), b), *angles[:2])
        key = rotated(shape.split(k.forward(n), b), *angles[2:])
        value = shape.split(v.forward(n), b).contiguous()
        heads, weights = attend(query, key, value, mask, shape.scale)
        read = heads.transpose(1, 2).reshape(len(asks), -1)
        h = o.forward(read).add_(left)
        m, m_scale = _normed(h, second, shape.second_eps)
        opened, passed = gate.forward(m), up.forward(m)
        lit = functional.silu(opened)
        inner = lit * passed
        y = down.forward(inner).add_(h)
        ctx.shape, ctx.size = shape, (b, length, width)
        wholes = [each.whole if shape.keeps and each.a is not None else None for each in linears]
        ctx.save_for_backward(
            *(index, *angles, rows, n, n_scale, asks, query, key, value, weights, read),
            *(h, m, m_scale, opened, passed, lit, inner, first, second, *wholes, *flat),
        )
        if index is not None:
            y = torch.zeros_like(rows).index_copy_(0, index, y)
        return y.view(b, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        shape, (b, length, width) = ctx.shape, ctx.size
        index, *kept = ctx.saved_tensors
        angles, kept = kept[:4], kept[4:]
        (rows, n, n_scale, asks, query, key, value, weights, read), kept = kept[:9], kept[9:]
        (h, m, m_scale, opened, passed, lit, inner, first, second), kept = kept[:9], kept[9:]
        wholes, flat = kept[: len(LINEARS)], kept[len(LINEARS) :]
        if shape.keeps:
            linears = [
                each._replace(whole=whole if each.a is not None else each.weight)
                for each, whole in zip(_linears(shape, flat), wholes, strict=True)
            ]
        else:
            linears = _summed(_linears(shape, flat), len(asks), len(n))
        q, k, v, o, gate, up, down = linears
        to_x, to_first, to_second = (ctx.needs_input_grad[at] for at in (1, 6, 7))
        needs = [ctx.needs_input_grad[8 + TENSORS * at :][:TENSORS] for at in range(len(LINEARS))]

        dy = gradient.reshape(-1, width)
        dy = dy if index is None else dy[index]
        of_down = down.gradients(inner, dy, needs[6])
        d_inner = down.to_x(dy)
        d_opened = torch.ops.aten.silu_backward(d_inner * passed, opened)
        d_passed = d_inner.mul_(lit)
        of_gate, of_up = gate.gradients(m, d_opened, needs[4]), up.gradients(m, d_passed, needs[5])
        dm = gate.to_x(d_opened).add_(up.to_x(d_passed))
        dh, of_second = _normed_backward(dm, h, m_scale, second, to_second)
        dh.add_(dy)
        of_o = o.gradients(read, dh, needs[3])
        d_query, d_key, d_value = attend_backward(
            shape.split(o.to_x(dh), b), query, key, value, weights, shape.scale
        )
        d_query = turned_back(d_query, *angles[:2]).view(len(asks), -1)
        d_key = turned_back(d_key, *angles[2:]).view(len(n), -1)
        d_value = d_value.transpose(1, 2).reshape(len(n), -1)
        of_q, of_k = q.gradients(asks, d_query, needs[0]), k.gradients(n, d_key, needs[1])
        of_v = v.gradients(n, d_value, needs[2])
        dx = of_first = None
        if to_x or to_first:
            dn, asked = k.to_x(d_key).add_(v.to_x(d_value)), q.to_x(d_query)
            dn = dn.add_(asked) if index is None else dn.index_add_(0, index, asked)
            dx, of_first = _normed_backward(dn, rows, n_scale, first, to_first)
            dx = dx.add_(dh) if index is None else dx.index_add_(0, index, dh)
            dx = dx.view(b, length, width)
        found = (*of_q, *of_k, *of_v, *of_o, *of_gate, *of_up, *of_down)
        return None, dx, None, None, None, None, of_first, of_second, *found

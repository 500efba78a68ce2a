"""Cross-entropy of many tokens over a large vocabulary, a part of its logits at a time.

The logits of 4,000 supervised tokens over 150,000 words are 2.4 GB, and the loss holds them three times. Here
a part of them is made, gives its loss and its gradient for the hidden states and the head at once, and is
gone: nothing is computed twice, and what is kept for the backward pass is as large as the hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

#: Most logits that are held at a time: 128 MB in fp32.
LOGITS = 1 << 25


class ChunkedLoss:
    """Takes hidden states to the sum of their weighted losses, through a model's head.

    What a model does to its logits behind the head is read from its configuration: division by
    ``logits_scaling`` (Granite), then ``final_logit_softcapping`` (Gemma).
    """

    def __init__(self, head: torch.nn.Module, config: Any, most: int = LOGITS) -> None:
        """Use ``head``, with whatever adapter is on it, for at most ``most`` logits at a time."""
        text = config.get_text_config()
        self.head, self._most = head, most
        self._vocabulary = int(getattr(head, "out_features", 0) or text.vocab_size)
        self._divisor = float(getattr(text, "logits_scaling", None) or 1.0)
        self._cap = float(getattr(text, "final_logit_softcapping", None) or 0.0)

    def pays(self, tokens: int) -> bool:
        """Return whether so many tokens have more logits than are held at a time."""
        return tokens * self._vocabulary > self._most

    def __call__(self, hidden: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        """Return the sum [] over tokens [N] of scale times loss, from their hidden states [N, D]."""
        size = max(1, self._most // self._vocabulary)
        tensors = (hidden, targets, scale)
        parts = [tuple(t[at : at + size] for t in tensors) for at in range(0, len(hidden), size)]
        if not torch.is_grad_enabled():
            return torch.stack([self.part(*part) for part in parts]).sum()
        learning = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        found: Tensor = _Chunks.apply(self, parts, hidden, *learning)
        return found

    def each(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the loss [N] of each token; its logits are made again for the backward pass."""
        size = max(1, self._most // self._vocabulary)
        parts = [(hidden[at : at + size], targets[at : at + size]) for at in range(0, len(hidden), size)]
        return torch.cat([checkpoint(self._each, *part, use_reentrant=False) for part in parts])

    def part(self, hidden: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        """Return the weighted sum [] for tokens whose logits fit."""
        return (self._each(hidden, targets) * scale).sum()

    def _each(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.head(hidden).float()
        if self._divisor != 1.0:
            logits = logits / self._divisor
        if self._cap:
            logits = self._cap * torch.tanh(logits / self._cap)
        return functional.cross_entropy(logits, targets, reduction="none")


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: ChunkedLoss, parts: Any, hidden: Tensor, *learning: Tensor) -> Tensor:
        to_hidden = ctx.needs_input_grad[2]
        total, made = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden)
        sums = [torch.zeros_like(parameter) for parameter in learning]
        at = 0
        for rows, targets, scale in parts:
            rows = rows.detach().requires_grad_(to_hidden)
            with torch.enable_grad():
                value = loss.part(rows, targets, scale)
            wanted = [*([rows] if to_hidden else []), *learning]
            found = list(torch.autograd.grad(value, wanted)) if wanted else []
            if to_hidden:
                made[at : at + len(rows)] = found.pop(0)
            for total_of_one, gradient in zip(sums, found, strict=True):
                total_of_one += gradient
            total += value.detach()
            at += len(rows)
        ctx.save_for_backward(*([made] if to_hidden else []), *sums)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = [value * gradient.to(value.dtype) for value in ctx.saved_tensors]
        to_hidden = found.pop(0) if ctx.needs_input_grad[2] else None
        return (None, None, to_hidden, *found)

"""The loss of a micro-batch, summed over its supervised tokens and computed for no others.

The caller divides by the weighted supervised tokens of the whole step, so how a step is cut into
micro-batches and processes does not change it (a mean of means would).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from studio.types import Batch

Precision = Literal["auto", "fp32", "bf16"]
IGNORE = -100


def compute_type(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in; ``auto`` takes bf16 only where the device has it in hardware."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


class TokenLoss:
    r"""Computes $\sum_i w_i \sum_t -\log p(y_{i,t})$ of a batch, with weight $w_i$ per sample.

    Logits are the largest tensor of a step and most of them belong to the prompt. A hook on the model's
    output embedding drops the positions without a label before they are computed; a model without such a
    module computes them all. ``dtype`` switches autocast on.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Hook onto ``model`` until `close`."""
        self._device, self._dtype = device, dtype
        self._wanted: Tensor | None = None
        head = model.get_output_embeddings()
        self._hook = head.register_forward_pre_hook(self._select) if head is not None else None

    def __call__(self, model: Any, batch: Batch, weights: Sequence[float]) -> Tensor:
        """Return the weighted sum [] over a batch with ``labels`` [B, L].

        Labels stand at their own token, as in ``input_ids``; in a batch with ``decoder_input_ids`` they stand
        one earlier, where they are predicted.
        """
        inputs = {key: value.to(self._device, non_blocking=True) for key, value in batch.items()}
        labels = inputs.pop("labels")
        if "decoder_input_ids" not in inputs:
            labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
        wanted = labels != IGNORE
        self._wanted = wanted
        try:
            with self._autocast():
                logits = model(**inputs, use_cache=False).logits
        finally:
            self._wanted = None
        if logits.dim() == 3:
            logits = logits[wanted]
        each = functional.cross_entropy(logits.float(), labels[wanted], reduction="none")
        scale = torch.tensor(weights, dtype=torch.float32, device=self._device)
        return (each * scale[wanted.nonzero()[:, 0]]).sum()

    def close(self) -> None:
        """Take the hook off the model."""
        if self._hook is not None:
            self._hook.remove()

    def _select(self, _module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Keep the hidden states [N, D] from which a supervised token is predicted."""
        hidden = args[0]
        if self._wanted is None or hidden.shape[:2] != self._wanted.shape:
            return None
        return (hidden[self._wanted], *args[1:])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

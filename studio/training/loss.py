"""The loss of a micro-batch, summed over its supervised tokens and computed for no others.

The caller divides by the supervised tokens of the whole step, times the mean weight of all data, so how a
step is cut into micro-batches and processes does not change it (a mean of means would), and weights count
whatever stands together in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from studio.training.chunked import LOGITS, ChunkedLoss
from studio.training.last_layer import LastLayer
from studio.types import Batch

Precision = Literal["auto", "fp32", "bf16", "nf4", "nf4-double", "int8"]
IGNORE = -100


def compute_type(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in; all but two words take bf16 only where the device has it in hardware."""
    if precision not in ("fp32", "bf16"):
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


@dataclass
class _Step:
    """What the hook needs of the batch that is being computed, and what it finds."""

    wanted: Tensor
    targets: Tensor
    rows: Tensor
    #: What makes the hidden states of many tokens a loss, a part of their logits at a time.
    chunks: Callable[[ChunkedLoss, Tensor], Tensor] | None = None
    open: bool = True
    found: Tensor | None = None
    first: Tensor | None = None


class TokenLoss:
    r"""Computes $\sum_i w_i \sum_t -\log p(y_{i,t})$ of a batch, with weight $w_i$ per sample.

    Logits are the largest tensor of a step and most of them belong to the prompt. A hook on the model's
    output embedding drops the positions without a label before they are computed; a model without such a
    module computes them all. Where those that are left are still many, `ChunkedLoss` computes a part at a
    time, and their gradient with it; the first time, the model's own logits of one token must give the same
    loss, or it stays off. ``dtype`` switches autocast on.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        most: int = LOGITS,
        last: torch.nn.Module | None = None,
    ) -> None:
        """Hook onto ``model`` until `close`; it holds at most ``most`` logits at a time, 0: all there are.

        ``last``, the last layer of a decoder, computes what has a label alone.
        """
        self._device, self._dtype = device, dtype
        self._step: _Step | None = None
        self._kept: Tensor | None = None
        head = model.get_output_embeddings()
        self._hook = head.register_forward_pre_hook(self._select) if head is not None else None
        self._chunked = ChunkedLoss(head, model.config, most) if most and head is not None else None
        self._proven = False
        self._layer = LastLayer(last, self.wanted) if last is not None else None

    def __call__(self, model: Any, batch: Batch, weights: Sequence[float]) -> Tensor:
        """Return the weighted sum [] over a batch with ``labels`` [B, L].

        Labels stand at their own token, as in ``input_ids``; in a batch with ``decoder_input_ids`` they stand
        one earlier, where they are predicted. In a packed batch ``rows`` [1, N] tells the sample of a token.
        """
        inputs, step = self._read(batch)
        of_row = torch.tensor(weights, dtype=torch.float32, device=self._device)
        scale = of_row[step.rows]
        step.chunks = lambda chunked, hidden: chunked(hidden, step.targets, scale)
        logits = self._logits(model, inputs, step)
        if logits is None:
            return step.found if step.found is not None else self(model, batch, weights)
        each = functional.cross_entropy(logits, step.targets, reduction="none")
        return (each * scale).sum()

    def rows(self, model: Any, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        r"""Return $\sum_t \log p(y_{i,t})$ [count] of each sample, and how many tokens [count] that are."""
        inputs, step = self._read(batch)
        step.chunks = lambda chunked, hidden: chunked.each(hidden, step.targets)
        logits = self._logits(model, inputs, step)
        if logits is not None:
            each = functional.cross_entropy(logits, step.targets, reduction="none")
        elif step.found is not None:
            each = step.found
        else:
            return self.rows(model, batch, count)
        total = torch.zeros(count, device=self._device).index_add(0, step.rows, -each)
        return total, torch.bincount(step.rows, minlength=count)

    def hits(self, model: Any, batch: Batch, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p [count] of each sample, how many of its tokens are the likeliest, and how many it has.

        For a loss that holds all logits there are (``most=0``).
        """
        inputs, step = self._read(batch)
        logits = self._logits(model, inputs, step)
        assert logits is not None
        each = -functional.cross_entropy(logits, step.targets, reduction="none")
        found = (logits.argmax(dim=-1) == step.targets).to(each.dtype)
        zero = torch.zeros(count, device=self._device)
        total, right = zero.index_add(0, step.rows, each), zero.index_add(0, step.rows, found)
        return total, right, torch.bincount(step.rows, minlength=count)

    def _read(self, batch: Batch) -> tuple[Batch, _Step]:
        """Return what the model takes of a batch, and what is wanted of its logits."""
        inputs = {key: value.to(self._device, non_blocking=True) for key, value in batch.items()}
        labels = inputs.pop("labels")
        rows = inputs.pop("rows", None)
        if "decoder_input_ids" not in inputs:
            labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
        wanted = labels != IGNORE
        of_token = wanted.nonzero()[:, 0] if rows is None else rows[wanted]
        return inputs, _Step(wanted=wanted, targets=labels[wanted], rows=of_token)

    def _logits(self, model: Any, inputs: Batch, step: _Step) -> Tensor | None:
        """Return the logits [N, V] of the wanted positions; None if the chunks have found what is wanted.

        If they have found anything else than the model, they are switched off, and nothing is found.
        """
        self._kept, self._step = step.wanted, step
        try:
            with self._autocast():
                logits: Tensor = model(**inputs, use_cache=False).logits
                if step.found is not None:
                    if not self._proves(step, logits):
                        step.found = self._chunked = None
                    return None
        finally:
            self._step = None
        return (logits[step.wanted] if logits.dim() == 3 else logits).float()

    def wanted(self) -> Tensor | None:
        """Return the positions [B, L] of the batch that is being computed whose logits the loss reads.

        While gradients are computed they are those of the last batch: layers may be computed again.
        """
        again = torch._C._current_graph_task_id() != -1
        return self._kept if self._step is not None or again else None

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._layer is not None:
            self._layer.close()
        if self._hook is not None:
            self._hook.remove()

    def _select(self, _module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Keep the hidden states [N, D] from which a supervised token is predicted, or take their loss."""
        hidden, step = args[0], self._step
        if step is None or not step.open or hidden.shape[:2] != step.wanted.shape:
            return None
        kept = hidden[step.wanted]
        if self._chunked is None or not self._chunked.pays(len(kept)):
            return (kept, *args[1:])
        step.open = False  # the head now runs for itself
        assert step.chunks is not None
        step.found = step.chunks(self._chunked, kept)
        step.first = kept[: 0 if self._proven else 1].detach()
        return (step.first, *args[1:])

    def _proves(self, step: _Step, logits: Tensor) -> bool:
        """Return whether the logits that the model has made of one token are those of the chunks."""
        if not self._proven:
            assert self._chunked is not None
            assert step.first is not None
            step.open = False
            with torch.no_grad():
                own = functional.cross_entropy(logits.reshape(1, -1).float(), step.targets[:1])
                made = self._chunked.part(step.first, step.targets[:1], torch.ones_like(own))
            self._proven = bool(torch.isclose(own, made, rtol=1e-4, atol=1e-5))
        return self._proven

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

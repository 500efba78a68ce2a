"""Integrated gradients over units: how log p grows along the line from the erased question to the whole one.

Each unit has a gate between 0 and 1. Gates of regions and spans stand on what the processor makes of a medium
(pixels, spectrogram): the part of an element that a gate moves is the part that changes when its unit is
erased. Gates of words stand on the embeddings of their tokens, which move from the mean embedding. The
derivative by the gates is integrated from all 0 to all 1: the weights add up to the difference of the ends,
as far as the steps are fine enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.explain_units import Unit
from studio.likelihood import with_answer
from studio.training.loss import TokenLoss
from studio.types import Batch, Family, Loaded

if TYPE_CHECKING:
    from studio.explain_value import Value

_TOGETHER = 4  # points of the line computed at once: each keeps its activations for the way back


def integrated(value: Value, units: Sequence[Unit], steps: int) -> tuple[list[float], float, float]:
    """Return the weights of the units, and the value with all gates open, and with none."""
    from captum.attr import IntegratedGradients

    weights, full, empty = torch.zeros(len(units), dtype=torch.float64), 0.0, 0.0
    for name, sign in zip(value.names, (1, -1), strict=False):
        gated = _Gated(value, name, units)
        method = IntegratedGradients(gated.values)
        method.gradient_func = gated.gradient
        whole, none = torch.ones(1, len(units)), torch.zeros(1, len(units))
        found: Tensor = method.attribute(
            whole, baselines=none, n_steps=steps, internal_batch_size=min(_TOGETHER, value.batch_size)
        )
        weights += sign * found[0].detach().double()
        full += sign * float(gated.values(whole))
        empty += sign * float(gated.values(none))
    return weights.tolist(), full, empty


class _Gated:
    """One variant's log p of the answer as a function of the gates."""

    def __init__(self, value: Value, name: str, units: Sequence[Unit]) -> None:
        """Encode the question whole, without its media, and without each unit."""
        family, loaded, self._within = value.engine.held(name)
        self._family, self._processor, self._value = family, loaded.processor, value
        self._mean = loaded.model.get_input_embeddings().weight.detach().mean(0, dtype=torch.float32)
        encode = _encoder(family, loaded, value.answer)
        media = [unit.kind != "word" for unit in units]
        self._whole = encode(value.eraser.without([False] * len(units)))
        erased = encode(value.eraser.without(media))
        self._moves = {
            key: each - erased[key]
            for key, each in self._whole.items()
            if each.is_floating_point() and not torch.equal(each, erased[key])
        }
        self._shares = {key: torch.zeros(len(units), *each.shape) for key, each in self._moves.items()}
        tokens = torch.zeros(len(units), len(self._whole["input_ids"]))
        for at, unit in enumerate(units):
            less = encode(value.eraser.without([other == at for other in range(len(units))]))
            if unit.kind == "word":
                tokens[at, _missing(self._whole["input_ids"], less["input_ids"])] = 1
                continue
            for key, share in self._shares.items():
                share[at] = (self._whole[key] - less[key]).abs()
        value.eraser.sweep()
        of_media = torch.tensor(media, dtype=torch.float32)
        for key, share in self._shares.items():
            share += 1e-9 * of_media.view(-1, *[1] * (share.dim() - 1))  # what no unit alone moves, all do
            self._shares[key] = share / share.sum(0).clamp_min(1e-12)
        self._claimed = tokens.sum(0) > 0
        self._tokens = tokens / tokens.sum(0).clamp_min(1)

    def values(self, gates: Tensor) -> Tensor:
        """Return log p [K] at gates [K, N]."""
        with torch.no_grad(), self._value.within(), self._within() as held:
            return self._log_probs(held, gates)

    def gradient(self, *, inputs: tuple[Tensor, ...], **_: Any) -> tuple[Tensor, ...]:
        """Return the derivative of log p by the gates; the model is held until the way back is done."""
        with torch.enable_grad(), self._value.within(), self._within() as held:
            gates = inputs[0].detach().requires_grad_()
            found: Tensor = torch.autograd.grad(self._log_probs(held, gates).sum(), gates)[0]
        return (found,)

    def _log_probs(self, held: Loaded, gates: Tensor) -> Tensor:
        items = [self._item(row) for row in gates]
        batch = self._family.collate(self._processor, items, "right")
        embedding = held.model.get_input_embeddings()
        device = embedding.weight.device
        open_to = torch.where(self._claimed, gates @ self._tokens, 1.0).to(device)[..., None]
        mean: Tensor = self._mean

        def gate(_module: Any, _args: Any, out: Tensor) -> Tensor:
            if out.shape[:2] != open_to.shape[:2]:  # not the prompt
                return out
            return (mean + open_to * (out.float() - mean)).to(out.dtype)

        handle = embedding.register_forward_hook(gate)
        loss = TokenLoss(held.model, device, most=0)
        try:
            totals, _ = loss.rows(held.model, batch, len(items))
        finally:
            loss.close()
            handle.remove()
        self._value.count(len(items))
        return totals.cpu()

    def _item(self, gates: Tensor) -> Batch:
        item = dict(self._whole)
        for key, move in self._moves.items():
            item[key] = item[key] - move * (1 - torch.einsum("n,n...->...", gates, self._shares[key]))
        return item


def _encoder(family: Family, loaded: Loaded, answer: str) -> Callable[[Any], Batch]:
    def encode(sample: Any) -> Batch:
        return family.encode(loaded.processor, with_answer(sample, answer), True)

    return encode


def _missing(whole: Tensor, less: Tensor) -> slice:
    """Return the places in ``whole`` [L] of what ``less`` lacks, both the same before and after them."""
    shorter = min(len(whole), len(less))
    same = (whole[:shorter] == less[:shorter]).long()
    before = int(same.cumprod(0).sum())
    tail = (whole[len(whole) - shorter :] == less[len(less) - shorter :]).long().flip(0)
    after = min(int(tail.cumprod(0).sum()), shorter - before)
    return slice(before, len(whole) - after)

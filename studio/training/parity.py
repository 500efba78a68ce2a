"""The gate that a fast path passes before a run relies on it: the same loss and gradients as the plain path.

Fused losses, packed rows and kept features have been wrong elsewhere at a loss that looked right. So each
of them is computed beside the plain path once, on real rows, before the first step; one that differs stays
off for the run, and one sentence says so.

    gate = Gate(model, log, dtype=dtype)
    plain = gate.measure(lambda: loss(model, batch, weights))
    packed = gate.allows("packing", plain, lambda: loss(model, joined, weights))

`Speed` has a switch of the same name for each of them (`speed.packing=false`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.log import Log

#: Largest relative difference that is the order of sums and no mistake, by the type computed in.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one path computes of some rows: their ``loss``, and the norm of each parameter's gradient."""

    loss: float
    norms: Tensor


class Gate:
    """Compares a fast path with the plain one on the same rows, and says which may be used.

    Dropout is off while it compares, and gradients, modes and random numbers are afterwards as before.
    """

    def __init__(
        self,
        model: Any,
        log: Log,
        *,
        dtype: torch.dtype = torch.float32,
        backward: Callable[[Tensor], Any] | None = torch.Tensor.backward,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        """Gate fast paths of ``model``, which may be wrapped for several processes.

        Args:
            model: the module whose parameters learn; its gradients must be empty.
            log: gets one sentence for every path that is asked about.
            dtype: what the loss is computed in; it decides `TOLERANCE`.
            backward: how gradients are computed (`accelerator.backward`); None compares the loss alone.
            agree: whether all processes say yes (one reduction); every process must come to each question.
        """
        self._model, self._log, self._backward, self._agree = model, log, backward, agree
        self._tolerance = TOLERANCE[dtype]

    def measure(self, loss: Callable[[], Tensor]) -> Measure:
        """Return what ``loss``, which computes a loss [] anew from the model, and its gradients come to."""
        learning = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        with self._undisturbed(learning):
            if self._backward is None:
                with torch.no_grad():
                    return Measure(loss=float(loss().detach()), norms=torch.zeros(0))
            value = loss()
            self._backward(value)
            norms = [
                torch.zeros(()) if parameter.grad is None else parameter.grad.detach().float().norm().cpu()
                for parameter in learning
            ]
            return Measure(loss=float(value.detach()), norms=torch.stack(norms) if norms else torch.zeros(0))

    def allows(self, name: str, plain: Measure, fast: Callable[[], Tensor]) -> bool:
        """Return whether ``fast`` computes what ``plain`` measured; one sentence in the log says so.

        A path that raises an error is not allowed either: the plain one has shown that the rows are good.
        """
        try:
            found = self.measure(fast)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError, IndexError) as error:
            reason = (str(error).splitlines() or [""])[0][:160]
            wrong = f"it fails on this model ({type(error).__name__}: {reason})"
        else:
            lost, moved = differences(plain, found)
            wrong = "" if max(lost, moved) <= self._tolerance else told(plain, found)
        if not self._agree(not wrong):
            self._log.say(f"{name}: off, because {wrong or 'it is off on another process'}")
            return False
        self._log.say(f"{name}: on; on the first rows {told(plain, found)}")
        return True

    @contextmanager
    def _undisturbed(self, learning: list[Tensor]) -> Iterator[None]:
        """Evaluate without dropout and put everything back: modes, gradients, random numbers."""
        training = [module for module in self._model.modules() if module.training]
        kept = [parameter.grad for parameter in learning]
        for parameter in learning:
            parameter.grad = None
        for module in training:
            module.training = False
        try:
            with torch.random.fork_rng():
                yield
        finally:
            for module in training:
                module.training = True
            for parameter, gradient in zip(learning, kept, strict=True):
                parameter.grad = gradient


def differences(plain: Measure, fast: Measure) -> tuple[float, float]:
    """Return how far loss and gradients are apart, relative to the plain ones; infinite if not a number."""
    lost = abs(fast.loss - plain.loss) / max(abs(plain.loss), 1e-12)
    moved = float((fast.norms - plain.norms).norm() / plain.norms.norm().clamp_min(1e-12))
    if fast.norms.norm() == plain.norms.norm() == 0:
        moved = 0.0
    return tuple(value if math.isfinite(value) else math.inf for value in (lost, moved))  # type: ignore[return-value]


def told(plain: Measure, fast: Measure) -> str:
    """Return both losses and how far the gradients are apart, as a clause."""
    lost, moved = differences(plain, fast)
    return f"the loss differs by {lost:.1g} of itself, the gradient by {moved:.1g}"

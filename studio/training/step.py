"""Loss and gradients of one optimiser step, whatever micro-batches and processes it is cut into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.prefetch import Prefetch
from studio.training.processes import Processes
from studio.training.rounds import own_parts
from studio.training.tracking import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What all steps have in common: the model, its loss, where batches come from, how many rows fit one.

    ``waiting`` is the time spent on having the rows.
    """

    model: Any
    token_loss: TokenLoss
    feed: Prefetch
    micro_batch: int
    processes: Processes
    waiting: Stopwatch = field(default_factory=Stopwatch)

    def begin(self, data: Encoded, batches: Iterable[Sequence[int]]) -> None:
        """Begin to make what the next steps will take, which are those of ``batches``."""
        parts = (own_parts(batch, data, self.micro_batch, self.processes) for batch in batches)
        self.feed.begin(data, (rows for step in parts for rows, _ in step))

    def gradients(self, data: Encoded, batch: Sequence[int]) -> Tensor:
        """Add the gradients of the step's loss to the parameters, and return this process's share of it [].

        One denominator for the whole step: the sum over micro-batches and processes is then the mean over
        supervised tokens. Gradients are averaged over processes, hence times their number.
        """
        accelerator, world = self.processes.accelerator, self.processes.world
        supervision = data.supervision(batch) or 1.0
        loss = torch.zeros((), device=accelerator.device)
        parts = own_parts(batch, data, self.micro_batch, self.processes)
        for number, (rows, weights) in enumerate(parts, 1):
            with self.processes.apart(self.model) if number < len(parts) else nullcontext():
                with self.waiting:
                    micro = self.feed.take(data, rows)
                share = self.token_loss(self.model, micro, weights) / supervision
                accelerator.backward(share * world)
                loss += share.detach()
        return loss

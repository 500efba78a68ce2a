"""Loss and gradients of one optimiser step, whatever micro-batches and processes it is cut into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.training.batches import micro_batches
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.processes import Processes
from studio.training.tracking import Stopwatch
from studio.types import Batch


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What all steps have in common: the model, its loss, how rows become a batch, how many fit one.

    ``waiting`` is the time spent on having the rows.
    """

    model: Any
    token_loss: TokenLoss
    collate: Callable[[Sequence[Batch]], Batch]
    micro_batch: int
    processes: Processes
    waiting: Stopwatch = field(default_factory=Stopwatch)

    def gradients(self, data: Encoded, batch: Sequence[int]) -> Tensor:
        """Add the gradients of the step's loss to the parameters, and return this process's share of it [].

        One denominator for the whole step: the sum over micro-batches and processes is then the mean over
        supervised tokens. DDP averages gradients over processes, hence times their number.
        """
        accelerator, world = self.processes.accelerator, self.processes.world
        supervision = data.supervision(batch) or 1.0
        loss = torch.zeros((), device=accelerator.device)
        parts = micro_batches(batch, data.lengths, self.micro_batch, self.processes.rank, world)
        for number, part in enumerate(parts, 1):
            with accelerator.no_sync(self.model) if number < len(parts) else nullcontext():
                # A process without a sample takes one at weight 0: all must join the exchange.
                with self.waiting:
                    micro = self.collate([data[index] for index in part or batch[:1]])
                weights = [data.weights[index] for index in part] or [0.0]
                share = self.token_loss(self.model, micro, weights) / supervision
                accelerator.backward(share * world)
                loss += share.detach()
        return loss

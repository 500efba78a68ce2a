"""The loss on held-out samples, over the same tokens and with the same weights as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from studio.training.encoding import Encoded
from studio.training.fsdp import reshard
from studio.training.loss import TokenLoss
from studio.training.processes import Processes
from studio.training.rounds import own_part
from studio.types import Batch


@torch.no_grad()
def evaluation_loss(
    model: Any,
    loss: TokenLoss,
    data: Encoded,
    collate: Callable[[Sequence[Batch]], Batch],
    size: int,
    processes: Processes,
) -> float:
    """Return the mean over supervised tokens, of all processes, each of which calls this for its share.

    Batches hold up to ``size`` samples of like length; the model is left in evaluation mode.
    """
    model.eval()
    order = sorted(range(len(data)), key=lambda index: data.lengths[index])
    batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
    total = torch.zeros((), device=next(model.parameters()).device)
    for begin in range(0, len(batches), processes.world):
        together = batches[begin : begin + processes.world]
        together += [[]] * (processes.world - len(together))
        rows, weights = own_part(together, data, processes)
        total += loss(model, collate([data[index] for index in rows]), weights)
    reshard(model)
    whole: torch.Tensor = processes.accelerator.reduce(total)
    return whole.item() / data.supervision(range(len(data)))

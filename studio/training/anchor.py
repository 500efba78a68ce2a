r"""An anchor that pulls weights back to where a run began, so that new data does not wash away old skill.

    l2    $\frac{s}{2} \lVert \theta - \theta_0 \rVert^2$
    ewc   $\frac{s}{2} \sum_i F_i (\theta_i - \theta_{0,i})^2$ with the Fisher information $F$ of old data,
          elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3)

$F$ is the mean over old rows of the squared gradient of log p(answer | question), with the data's answers
(the empirical Fisher), divided by its mean over all weights: then the strength $s$ means the same in both.
What is pulled are the weights that learn: of an adapter its factors, not their product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from studio.errors import CheckpointError
from studio.files import atomic_write
from studio.log import Log
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.types import Batch

#: The Fisher information of a run's old data, kept in its folder.
FILE = "fisher.safetensors"


class Anchor:
    """Where the weights that learn were, and how hard each is pulled back there."""

    def __init__(self, model: Any, strength: float, fisher: Mapping[str, Tensor] | None = None) -> None:
        """Remember the weights as they are; ``fisher`` has a weight of its own for each, by name."""
        self._strength = strength
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._held = [
            (p, p.detach().clone(), None if fisher is None else fisher[name].to(p.device))
            for name, p in named.items()
        ]

    @torch.no_grad()
    def pull(self) -> None:
        """Add the anchor's gradient to those of the weights, once all processes have theirs."""
        for parameter, old, weight in self._held:
            force = (parameter - old).mul_(self._strength)
            if weight is not None:
                force.mul_(weight)
            if parameter.grad is None:
                parameter.grad = force
            else:
                parameter.grad.add_(force)


def fisher_diagonal(
    model: Any,
    loss: TokenLoss,
    data: Encoded,
    rows: Sequence[int],
    collate: Callable[[Sequence[Batch]], Batch],
    log: Log,
) -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information by parameter, of mean 1; row by row, without dropout."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in learning.items()}
    model.eval()
    log.stage("fisher", len(rows))
    for row in rows:
        torch.autograd.backward(loss(model, collate([data[row]]), [1.0]))
        for name, parameter in learning.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad.detach().float().square()
                parameter.grad = None
        log.advance()
    total = sum(float(value.sum()) for value in sums.values())
    count = sum(value.numel() for value in sums.values())
    return {name: (value * (count / total if total else 0.0)).cpu() for name, value in sums.items()}


def write_fisher(folder: Path, fisher: Mapping[str, Tensor]) -> None:
    """Keep the Fisher information in a run's folder."""
    atomic_write(folder / FILE, save(dict(fisher)))


def read_fisher(folder: Path, model: Any) -> dict[str, Tensor]:
    """Return the Fisher information of a run that goes on.

    Raises:
        CheckpointError: if there is none, it is damaged, or it is of other weights than learn here.
    """
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    opened: Any = safe_open  # its stubs have no types
    try:
        with opened(folder / FILE, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / FILE}: cannot be read ({error}); resume=false starts over"
        ) from None
    if {name: tuple(value.shape) for name, value in found.items()} != wanted:
        raise CheckpointError(f"{folder / FILE} is of other weights; resume=false starts over")
    return found

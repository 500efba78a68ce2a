r"""The moving average of what learns: steadier than its last step, and what the run is judged and kept by.

After step $t$, $\bar\theta \leftarrow d_t \bar\theta + (1 - d_t) \theta$ with
$d_t = \min(d, (1 + t) / (10 + t))$, so that a short run is not held back by its start (Polyak and Juditsky
1992; the warm-up of $d$ is that of TensorFlow's ExponentialMovingAverage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from studio.errors import CheckpointError


class Average:
    """The averages of a model's trainable parameters, in their own type and on their own device."""

    def __init__(self, model: Any, decay: float) -> None:
        """Begin at the parameters as they are; ``decay`` is in (0, 1)."""
        self._decay = decay
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._means = {name: p.detach().clone() for name, p in self._learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after ``step`` steps, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self._means.values()), [p.detach() for p in self._learning.values()], 1.0 - decay
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the model for a while; afterwards it is as it was, bit by bit."""
        own = {name: p.detach().clone() for name, p in self._learning.items()}
        try:
            self._put(self._means)
            yield
        finally:
            self._put(own)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the parameters' names, to be saved."""
        return dict(self._means)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from averages that `state` returned.

        Raises:
            CheckpointError: if they are not those of what learns here.
        """
        if {n: t.shape for n, t in state.items()} != {n: p.shape for n, p in self._learning.items()}:
            raise CheckpointError("the saved averages are of other weights; resume=false starts over")
        for name, mean in self._means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._learning.items():
            parameter.copy_(values[name])

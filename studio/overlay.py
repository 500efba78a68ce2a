"""A model with something added to its weights for a while: merges tried without a copy of the model.

with overlaid(model, {"model.layers.0.fc1": delta}):
    ...                     # the model is the merge
...                         # and is itself again, to the last bit
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from studio.errors import CheckpointError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

Deltas = Mapping[str, "Tensor"]
"""Path of a module -> what its weight gains, of the weight's shape."""


@contextmanager
def overlaid(model: Any, deltas: Deltas) -> Iterator[Any]:
    """Add ``deltas`` to the weights of modules for the block; sums are taken in float32 and rounded once.

    Whoever else uses the model has to wait. Memory: a copy of the weights that change.

    Raises:
        CheckpointError: if the model lacks a module or its weight has another shape; nothing is changed then.
    """
    places = {path: weight_of(model, path) for path in deltas}
    for path, weight in places.items():
        if weight.shape != deltas[path].shape:
            raise CheckpointError(
                f"'{path}' is {list(weight.shape)} in the model and {list(deltas[path].shape)} in the merge"
            )
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for path, weight in places.items():
                kept.append((weight, weight.detach().clone()))
                weight.copy_(weight.float() + deltas[path].to(weight.device, torch.float32))
        yield model
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def weight_of(model: Any, path: str) -> Tensor:
    """Return the weight of the module at a path; `CheckpointError` where there is none."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise CheckpointError(f"the model has no module '{path}'") from None
    weight: Tensor | None = getattr(module, "weight", None)
    if weight is None:
        raise CheckpointError(f"the module '{path}' has no weight")
    return weight

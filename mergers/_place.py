"""Where values come from, and a look at all of them before the first is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergers import _random

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a call's values come from: what random numbers and surveys over many calls need to know.

    tensor   name of the tensor; ``seed`` and ``keys`` (one per model) complete the key of random numbers
    start    index of the first element within the tensor; ``offset`` of the tensor within the model
    survey   what the method's ``survey`` found in the whole tensor or model, or None: the call has it all
    statistics  per model what its data says of these values, or None; see a method's ``STATISTICS``
    """

    tensor: str = ""
    seed: int = 0
    keys: tuple[str, ...] = ()
    start: int = 0
    offset: int = 0
    survey: Any = None
    statistics: Sequence[Tensor] | None = None

    def random_key(self, model: int) -> int:
        """Return the key of the random numbers for one model's tensor."""
        return _random.key(self.seed, self.tensor, self.keys[model] if self.keys else model)


NOWHERE = Place()


@dataclass(frozen=True, kw_only=True)
class Look:
    """All deltas of a scope (a tensor or a model), piece by piece, as often as needed.

    count    number of models
    numel    number of elements per model
    pieces   yields (place, deltas): float32 tensors that belong to the caller, flat or whole rows
    values   the same, but the models' own values
    sample   returns some thousand elements of each model's delta, spread over the scope
    """

    count: int
    numel: int
    pieces: Callable[[], Iterator[tuple[Place, list[Tensor]]]]
    values: Callable[[], Iterator[tuple[Place, list[Tensor]]]]
    sample: Callable[[], list[Tensor]]

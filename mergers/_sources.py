"""An input as values of the base's tensors: a full model read as it is, or an adapter on top of the base."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from mergers._inputs import Opened
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.module_names import tensor_names, weight_names

#: Types whose values can be averaged.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One model to merge, by the donor's tensor names."""

    donor: Checkpoint
    checkpoint: Checkpoint | None = None
    adapter: Adapter | None = None
    aliases: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _weights(self) -> dict[str, str]:
        """Tensor name -> the adapter's module whose weight it is."""
        assert self.adapter is not None
        shapes = {name: self.adapter.shape(name) for name in self.adapter.names()}
        return {tensor: module for module, tensor in weight_names(shapes, self.donor).items()}

    @cached_property
    def _biases(self) -> dict[str, str]:
        """Tensor name -> the adapter's module whose bias it is, for modules with a bias of their own."""
        assert self.adapter is not None
        found = {}
        for tensor, module in self._weights.items():
            if self.adapter.has_bias(module):
                bias = tensor.removesuffix("weight") + "bias"
                if bias not in self.donor:
                    raise MergeError(
                        f"{self.adapter.folder} trains a bias of '{module}', which the base lacks; "
                        "only an adapter can hold it (output: adapter)"
                    )
                found[bias] = module
        return found

    @cached_property
    def _values(self) -> dict[str, str]:
        """Tensor name -> the adapter's name of a tensor that it stores whole."""
        assert self.adapter is not None
        wanted = {name: self.adapter.value_shape(name) for name in self.adapter.values}
        return {tensor: name for name, tensor in tensor_names(wanted, self.donor).items()}

    def has(self, name: str) -> bool:
        """Return whether this model changes, or at least has, the tensor."""
        if self.adapter is not None:
            return name in self._weights or name in self._biases or name in self._values
        assert self.checkpoint is not None
        return True if name in self.checkpoint else self._alias(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape here."""
        if self.checkpoint is not None:
            return self.checkpoint.shape(self._alias(name) or name)
        return self.donor.shape(name)

    def read(self, name: str, begin: int, end: int, base: Tensor | None) -> Tensor:
        """Return the elements ``begin <= i < end`` of the flattened tensor as this model has them.

        ``base`` are the base's values there; an adapter that leaves the tensor alone returns them.
        """
        if self.checkpoint is not None:
            return self.checkpoint.read_flat(self._alias(name) or name, begin, end)
        assert self.adapter is not None
        assert base is not None
        if name in self._values:
            return self.adapter.checkpoint.read_flat(self.adapter.stored(self._values[name]), begin, end)
        ground = base.float()
        if name in self._weights:
            module = self._weights[name]
            weight = self.donor.read(name) if self.adapter.is_dora(module) else None
            return ground + self.adapter.factors(module).delta(weight).reshape(-1)[begin:end]
        if name in self._biases:
            bias = self.adapter.factors(self._biases[name]).bias
            assert bias is not None
            return ground + bias[begin:end]
        return ground

    def extra(self, donor: Checkpoint) -> list[str]:
        """Return the names of tensors that the donor does not have."""
        return [n for n in self.checkpoint.names() if n not in donor] if self.checkpoint is not None else []

    def _alias(self, name: str) -> str | None:
        """Return under which name a model that ties two tensors stores the one it seems to lack."""
        assert self.checkpoint is not None
        if name in self.checkpoint:
            return None
        if name not in self.aliases:
            twin = tied_name(self.donor, name)
            if twin is None or twin not in self.checkpoint:
                raise MergeError(f"{self.checkpoint.folder} lacks the tensor '{name}' of {self.donor.folder}")
            self.aliases[name] = twin
        return self.aliases[name]


def sources(opened: Opened, donor: Checkpoint) -> list[Source]:
    """Return the inputs in order."""
    return [
        Source(donor=donor, adapter=m) if isinstance(m, Adapter) else Source(donor=donor, checkpoint=m)
        for m in opened.models
    ]


def tied_name(checkpoint: Checkpoint, name: str) -> str | None:
    """Return another tensor of the checkpoint with the very same contents, or None."""
    entry = checkpoint.entry(name)
    for other in checkpoint.names():
        twin = checkpoint.entry(other)
        if (
            other != name
            and (twin.shape, twin.kind) == (entry.shape, entry.kind)
            and _equal(checkpoint, name, other)
        ):
            return other
    return None


def _equal(checkpoint: Checkpoint, one: str, other: str, block: int = 1 << 24) -> bool:
    size = checkpoint.entry(one).nbytes
    return all(
        torch.equal(
            checkpoint.read_raw(one, begin, min(begin + block, size)),
            checkpoint.read_raw(other, begin, min(begin + block, size)),
        )
        for begin in range(0, size, block)
    )

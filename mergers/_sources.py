"""An input as values of the base's tensors: a full model read as it is, or an adapter on top of the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mergers._inputs import Opened
from studio.adapters import Adapter, Factors
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.floats import Values, sound, widen
from studio.later import torch
from studio.module_names import tensor_names, weight_names
from studio.tensorfile import BITS

if TYPE_CHECKING:
    from torch import Tensor

#: Types whose values can be averaged.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

#: Reads the elements begin <= i < end of a flattened tensor, given the base's values there.
Reader = Callable[[int, int, "Tensor | None"], "Tensor"]
Stretches = Sequence[tuple[int, int]]
#: Reads several such stretches, one after the other, as one array; None if not all of it is finite.
ArrayReader = Callable[[Stretches, "Values | None"], "Values | None"]


class Input(Protocol):
    """A model to merge, by the donor's tensor names."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The full model, if it is one."""

    @property
    def modules(self) -> dict[str, str]:
        """Tensor name -> the name that an adapter has for it."""

    def has(self, name: str) -> bool:
        """Return whether this model changes, or at least has, the tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape here."""

    def kind(self, name: str) -> str:
        """Return as which type the tensor is stored here."""

    def extra(self, donor: Checkpoint) -> list[str]:
        """Return the names of tensors that the donor does not have."""

    def reader(self, name: str) -> Reader:
        """Return what reads pieces of a tensor as this model has it."""


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
                    change = self.adapter.factors(module).bias
                    if change is None or not change.any():
                        continue  # PEFT asks for all biases or none, so that zeros fill up
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

    @property
    def modules(self) -> dict[str, str]:
        """Tensor name -> the name that an adapter has for it; nothing for a full model."""
        return {**self._weights, **self._biases, **self._values} if self.adapter is not None else {}

    def has(self, name: str) -> bool:
        """Return whether this model changes, or at least has, the tensor."""
        if self.adapter is not None:
            return name in self._weights or name in self._biases or name in self._values
        assert self.checkpoint is not None
        return name in self.checkpoint or self.alias(name) != name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape here."""
        if self.checkpoint is not None:
            return self.checkpoint.shape(self.alias(name))
        return self.donor.shape(name)

    def reader(self, name: str) -> Reader:
        """Return what reads pieces of a tensor as this model has it."""
        if self.checkpoint is not None:
            return stored(self.checkpoint, self.alias(name))
        assert self.adapter is not None
        if name in self._values:
            return stored(self.adapter.checkpoint, self.adapter.stored(self._values[name]))
        if name in self._weights:
            module = self._weights[name]
            factors = self.adapter.factors(module)
            if factors.magnitude is not None:
                whole = factors.delta(self.donor.read(name)).reshape(-1)
                return lambda begin, end, base: _ground(base) + whole[begin:end]
            return lambda begin, end, base: _ground(base) + _slice(factors, begin, end)
        if name in self._biases:
            bias = self.adapter.factors(self._biases[name]).bias
            assert bias is not None
            return lambda begin, end, base: _ground(base) + bias[begin:end]
        return lambda begin, end, base: _ground(base)

    def kind(self, name: str) -> str:
        """Return as which type the tensor is stored here; an adapter's are the donor's."""
        if self.checkpoint is not None:
            return self.checkpoint.entry(self.alias(name)).kind
        return self.donor.entry(name).kind

    def extra(self, donor: Checkpoint) -> list[str]:
        """Return the names of tensors that the donor does not have."""
        return [n for n in self.checkpoint.names() if n not in donor] if self.checkpoint is not None else []

    def alias(self, name: str) -> str:
        """Return under which name a model stores a tensor; one that ties two stores only one of them."""
        assert self.checkpoint is not None
        if name in self.checkpoint:
            return name
        if name not in self.aliases:
            twin = tied_name(self.donor, name)
            if twin is None or twin not in self.checkpoint:
                raise MergeError(f"{self.checkpoint.folder} lacks the tensor '{name}' of {self.donor.folder}")
            self.aliases[name] = twin
        return self.aliases[name]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A full model with an adapter baked into it; ``names`` {the donor's name: its own} where they differ."""

    model: Source
    adapter: Source
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The model under the adapter."""
        return self.model.checkpoint

    @property
    def modules(self) -> dict[str, str]:
        """The adapter's names go by those of the model, not by the donor's."""
        return {}

    def has(self, name: str) -> bool:
        """Return whether the model has the tensor."""
        return self.model.has(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape."""
        return self.model.shape(name)

    def kind(self, name: str) -> str:
        """Return as which type the tensor is stored."""
        return self.model.kind(name)

    def extra(self, donor: Checkpoint) -> list[str]:
        """Return the names of tensors that the donor does not have."""
        return self.model.extra(donor)

    def reader(self, name: str) -> Reader:
        """Return what reads pieces of a tensor: the model's values and what the adapter adds to them."""
        plain, own = self.model.reader(name), self.names.get(name, name)
        if not self.adapter.has(own):
            return plain
        tuned = self.adapter.reader(own)
        return lambda begin, end, base: tuned(begin, end, plain(begin, end, None))


def standing(source: Input, name: str) -> tuple[Checkpoint, str] | None:
    """Return where a full model's values of a tensor stand as they are, or None: they are computed."""
    if isinstance(source, Source) and source.checkpoint is not None:
        return source.checkpoint, source.alias(name)
    return None


def arrays(source: Input, name: str) -> ArrayReader:
    """Return what reads pieces of a tensor as float32 or float64 arrays; None for one that is not finite."""
    place = standing(source, name)
    if place is not None:
        return stored_arrays(*place)
    reader = source.reader(name)

    def computed(stretches: Stretches, base: Values | None) -> Values | None:
        found, place = [], 0
        for begin, end in stretches:
            ground = None if base is None else torch.from_numpy(base[place : place + end - begin])
            found.append(reader(begin, end, ground))
            place += end - begin
        values = torch.cat(found) if len(found) > 1 else found[0]
        wide: Values = (values if values.dtype == torch.float64 else values.float()).numpy()
        return wide if np.isfinite(wide).all() else None

    return computed


def stored_arrays(checkpoint: Checkpoint, name: str) -> ArrayReader:
    """Return the same for a stored tensor."""
    entry = checkpoint.entry(name)
    size = BITS[entry.kind] // 8

    def read(stretches: Stretches, base: Values | None) -> Values | None:
        parts = [checkpoint.read_array(name, begin * size, end * size) for begin, end in stretches]
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return widen(raw, entry.kind) if sound(raw, entry.kind) else None

    return read


def stored(checkpoint: Checkpoint, name: str) -> Reader:
    """Return what reads pieces of a stored tensor: from the page cache every time, which is fastest."""
    return lambda begin, end, base: checkpoint.read_flat(name, begin, end)


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
        if other != name and (twin.shape, twin.kind) == (entry.shape, entry.kind) and _equal(
            checkpoint, name, other
        ):  # fmt: skip
            return other
    return None


def _ground(base: Tensor | None) -> Tensor:
    assert base is not None
    return base.float()


def _slice(factors: Factors, begin: int, end: int) -> Tensor:
    """Return a stretch of the flattened product of two factors."""
    columns = factors.a.shape[1]
    first, last = begin // columns, -(-end // columns)
    rows = (factors.b[first:last] @ factors.a).reshape(-1)
    return rows[begin - first * columns : end - first * columns]


def _equal(checkpoint: Checkpoint, one: str, other: str, block: int = 1 << 24) -> bool:
    size = checkpoint.entry(one).nbytes
    return all(
        torch.equal(
            checkpoint.read_raw(one, begin, min(begin + block, size)),
            checkpoint.read_raw(other, begin, min(begin + block, size)),
        )
        for begin in range(0, size, block)
    )

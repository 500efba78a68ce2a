"""The work on one tensor: read, merge, check and write it, in pieces that fit the processor's cache.

A piece has a fixed size, so the result depends neither on the memory nor on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mergers._arrays import joined
from mergers._ops import deltas
from mergers._place import Look, Place
from mergers._plan import Step
from mergers._report import ModuleReport
from mergers._settings import takes_arrays
from mergers._sources import Input, Stretches, arrays, standing, stored, stored_arrays
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.floats import WRITABLE, narrow, sound, widen
from studio.later import torch
from studio.shards import ShardWriter
from studio.tensorfile import BITS, TORCH_NAMES, torch_type

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 18
#: One piece in so many is measured for the report's figures.
MEASURED = 8
#: Gives what the models' data says of some elements of a tensor, or None where it says nothing.
Told = Callable[[str, int, int], "Sequence[Tensor] | None"]
#: A survey's sample: so many stretches of so many elements, spread evenly.
STRETCHES, STRETCH = 64, 512


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all tensors of a part share; ``guarded`` says whether the donor's values are the base's.

    ``numbers`` are the places of the part's models in the spec.

    ``ground`` is what the donor's values are read by, where it is not by their place in its files; ``told``
    gives the statistics that the method asks for. ``device`` is where the method works: pieces go there as
    they were read and checked, and come back as they are stored.
    """

    donor: Checkpoint
    base: Checkpoint | None
    sources: Sequence[Input]
    method: ModuleType
    place: Place
    names: Sequence[str]
    numbers: Sequence[int] = ()
    guarded: bool = False
    ground: Input | None = None
    told: Told | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A merged tensor's report, and the squared error that storing it in the base's type cost.

    Without a report it was copied: as planned, or because the base's values are not all finite.
    """

    report: ModuleReport | None
    lost: float = 0.0
    infinite: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what `from_facts` needs to know."""
        if self.report is None:
            return {"infinite": self.infinite}
        return {"norm": self.report.norm, "longest": self.report.longest, "lost": self.lost}

    @classmethod
    def from_facts(cls, name: str, facts: Mapping[str, Any]) -> Done:
        """Return what a journal tells of a finished tensor."""
        if "norm" not in facts:
            return cls(report=None, infinite=bool(facts.get("infinite")))
        norm, longest = float(facts["norm"]), float(facts["longest"])
        report = ModuleReport(name=name, rank=0, energy=1.0, norm=norm, longest=longest)
        return cls(report=report, lost=float(facts["lost"]))


class _Infinite(Exception):
    """The base itself holds values that are not finite (clipping bounds, masks): the tensor is copied."""


class Tensors:
    """One tensor of all models, read in pieces."""

    def __init__(self, work: Work, step: Step, place: Place) -> None:
        """Open the tensor in the base and in every model."""
        self.work, self.step = work, step
        self.numel = math.prod(step.shape)
        self.size = piece_size(work.method, step.shape)
        self.place = replace(place, tensor=step.name)
        ground, name = work.ground, step.name
        self._arrays = takes_arrays(work.method) and work.device == "cpu"
        if self._arrays:
            self._array_ground = arrays(ground, name) if ground else stored_arrays(work.donor, name)
            self._array_readers = [arrays(source, name) for source in work.sources]
            own = work.base is not None or any(standing(source, name) is None for source in work.sources)
            self._needs_ground = own or work.guarded
            return
        self._ground = ground.reader(name) if ground else stored(work.donor, name)
        self._readers = [source.reader(name) for source in work.sources]

    def read(self, begin: int, end: int) -> tuple[list[Any], Any]:
        """Return the models' and the base's elements ``begin <= i < end``, all of them finite.

        NumPy arrays where the method takes them and works on the processor, tensors otherwise.
        """
        if self._arrays:
            return self._read_arrays([(begin, end)])
        ground = self._ground(begin, end, None)
        if self.work.guarded and not is_finite(ground):
            raise _Infinite
        found = []
        for reader, name in zip(self._readers, self.work.names, strict=True):
            values = reader(begin, end, ground)
            if not is_finite(values):
                raise self._damaged(name)
            found.append(values.to(self.work.device))
        return found, ground.to(self.work.device) if self.work.base is not None else None

    def _read_arrays(self, stretches: Stretches) -> tuple[list[Any], Any]:
        ground = self._array_ground(stretches, None) if self._needs_ground else None
        if self._needs_ground and ground is None:
            raise _Infinite if self.work.guarded else self._damaged(str(self.work.donor.folder))
        found = []
        for reader, name in zip(self._array_readers, self.work.names, strict=True):
            values = reader(stretches, ground)
            if values is None:
                raise self._damaged(name)
            found.append(values)
        return found, ground if self.work.base is not None else None

    def _damaged(self, name: str) -> MergeError:
        return MergeError(
            f"'{self.step.name}' of {name} holds values that are not finite; the model is damaged"
        )

    def shaped(self, begin: int) -> tuple[list[Any], Any]:
        """Return the piece that begins at an element as the method is given it: flat, whole rows, or all."""
        values, base = self.read(begin, min(begin + self.size, self.numel))
        if self.size < self.numel and getattr(self.work.method, "PIECES", "whole") != "rows":
            return values, base
        if not self.step.shape and self._arrays:  # what NumPy makes of arrays without an axis are no arrays
            return values, base
        shape = (-1, *self.step.shape[1:]) if self.step.shape else ()
        return [v.reshape(shape) for v in values], None if base is None else base.reshape(shape)

    def pieces(self) -> Iterator[tuple[Place, list[Any]]]:
        """Yield all deltas, piece by piece."""
        for begin in range(0, self.numel, self.size):
            tensors, base = self.shaped(begin)
            yield replace(self.place, start=begin), deltas(tensors, base)

    def values(self) -> Iterator[tuple[Place, list[Any]]]:
        """Yield all models' values, piece by piece."""
        for begin in range(0, self.numel, self.size):
            yield replace(self.place, start=begin), deltas(self.shaped(begin)[0], None)

    def sample(self, share: float = 1.0) -> list[Any]:
        """Return some of each model's deltas, from stretches spread over the tensor."""
        stretches = max(1, min(math.ceil(STRETCHES * share), -(-self.numel // STRETCH)))
        length = min(STRETCH, self.numel)
        begins = [(self.numel - length) * i // max(1, stretches - 1) for i in range(stretches)]
        if self._arrays:
            return deltas(*self._read_arrays([(begin, begin + length) for begin in begins]))
        found: list[list[Any]] = [[] for _ in self.work.sources]
        for begin in begins:
            for part, delta in zip(found, deltas(*self.read(begin, begin + length)), strict=True):
                part.append(delta.reshape(-1))
        return [joined(parts) for parts in found]


def survey_model(
    work: Work, steps: Iterable[Step], settings: Mapping[str, Any]
) -> tuple[Any, dict[str, int]]:
    """Return what the method finds in the whole model, and each tensor's offset in it."""
    offsets, place, merged = {}, 0, [step for step in steps if step.action == "merge"]
    for step in merged:
        offsets[step.name] = place
        place += math.prod(step.shape)

    def opened() -> Iterator[Tensors]:
        for step in merged:
            yield Tensors(work, step, replace(work.place, offset=offsets[step.name]))

    def pieces() -> Iterator[tuple[Place, list[Tensor]]]:
        for tensors in opened():
            with suppress(_Infinite):  # copied, so that nothing of it counts
                yield from tensors.pieces()

    def values() -> Iterator[tuple[Place, list[Tensor]]]:
        for tensors in opened():
            with suppress(_Infinite):
                yield from tensors.values()

    def sample() -> list[Tensor]:
        parts = []
        for tensors in opened():
            with suppress(_Infinite):
                parts.append(tensors.sample(min(1.0, 64 * tensors.numel / place)))
        return [joined(same) for same in zip(*parts, strict=True)]

    look = Look(count=len(work.sources), numel=place, pieces=pieces, values=values, sample=sample)
    return work.method.survey(look, **settings), offsets


def merge_tensor(work: Work, step: Step, writer: ShardWriter, place: Place) -> Done:
    """Merge or copy one tensor into the writer."""
    if step.action == "merge":
        with suppress(_Infinite), np.errstate(all="ignore"):  # what is not finite is looked for, and told
            return _merge(work, step, writer, place)
    copy_tensor(work.donor, step.name, writer, step.stored)
    return Done(report=None, infinite=step.action == "merge")


def _merge(work: Work, step: Step, writer: ShardWriter, place: Place) -> Done:
    method, tensors = work.method, Tensors(work, step, place)
    place, numel = tensors.place, tensors.numel
    size = tensors.size
    if place.survey is None and hasattr(method, "survey") and size < numel:
        look = Look(
            count=len(work.sources),
            numel=numel,
            pieces=tensors.pieces,
            values=tensors.values,
            sample=tensors.sample,
        )
        place = replace(place, survey=method.survey(look, **step.settings))
    wants_place = "place" in (method.merge.__kwdefaults__ or {})
    kind = step.stored or work.donor.entry(step.name).kind
    measure = _Measure(len(work.sources))
    for number, begin in enumerate(range(0, numel, size)):
        values, base = tensors.shaped(begin)
        told = work.told(step.name, begin, begin + values[0].numel()) if work.told is not None else None
        told = told and [figures.to(work.device) for figures in told]
        extra = {"place": replace(place, start=begin, statistics=told)} if wants_place else {}
        merged: Any = method.merge(values, base, **extra, **step.settings).reshape(-1)
        if isinstance(merged, np.ndarray) and kind not in WRITABLE:
            merged = torch.from_numpy(merged)
            values = [torch.from_numpy(array) for array in values]
            base = None if base is None else torch.from_numpy(base)
        stored = narrow(merged, kind) if isinstance(merged, np.ndarray) else merged.to(torch_type(kind))
        if not (sound(stored, kind) if isinstance(stored, np.ndarray) else is_finite(stored)):
            raise MergeError(
                f"merging '{step.name}' gives values that {TORCH_NAMES[kind]} cannot hold; lower the weights"
            )
        data = stored if isinstance(stored, np.ndarray) else stored.cpu().contiguous()
        writer.write_raw(step.name, begin * BITS[kind] // 8, data)
        if number % MEASURED == 0:
            again = widen(stored, kind) if isinstance(stored, np.ndarray) else stored.to(merged.dtype)
            measure.add(merged, again, values, base)
    scale = numel / measure.count if measure.count else 0.0
    return Done(report=measure.report(step.name, scale), lost=measure.lost * scale)


def piece_size(method: ModuleType, shape: Sequence[int]) -> int:
    """Return how many elements of a tensor a method is given at a time."""
    numel, kind = math.prod(shape), getattr(method, "PIECES", "whole")
    if kind == "any":
        return min(PIECE, max(numel, 1))
    if kind == "rows" and len(shape) > 1:
        row = max(1, numel // shape[0])
        return min(max(1, PIECE // row) * row, max(numel, 1))
    return max(numel, 1)


class _Measure:
    """Lengths of the deltas and what rounding costs, over the pieces that are measured."""

    def __init__(self, models: int) -> None:
        self.count, self.lost, self._merged = 0, 0.0, 0.0
        self._models = [0.0] * models

    def add(self, merged: Any, stored: Any, values: Sequence[Any], base: Any) -> None:
        """Measure one piece; ``stored`` is what the merged values become once they are written."""
        ground = (base if base is not None else values[0]).reshape(-1)
        self.count += len(merged)
        self.lost += _squared(stored - merged)
        self._merged += _squared(merged - ground)
        for i, value in enumerate(values):
            self._models[i] += _squared(value.reshape(-1) - ground)

    def report(self, name: str, scale: float) -> ModuleReport:
        """Return the figures scaled up to the whole tensor."""
        longest = math.sqrt(max(self._models) * scale)
        norm = math.sqrt(self._merged * scale)
        return ModuleReport(name=name, rank=0, energy=1.0, norm=norm, longest=longest)


def _squared(values: Any) -> float:
    if isinstance(values, np.ndarray):
        return float(np.einsum("n,n->", values, values))
    flat = values.reshape(-1).float()
    return float(torch.dot(flat, flat))


def copy_tensor(
    donor: Checkpoint, name: str, writer: ShardWriter, stored: str = "", block: int = 1 << 22
) -> None:
    """Copy a tensor's bytes as they are, or its values as another type."""
    if stored and stored != donor.entry(name).kind:
        for begin in range(0, donor.entry(name).numel, block):
            end = min(begin + block, donor.entry(name).numel)
            writer.write_flat(name, begin, donor.read_flat(name, begin, end))
        return
    size = donor.entry(name).nbytes
    for begin in range(0, size, block):
        writer.write_raw(name, begin, donor.read_raw(name, begin, min(begin + block, size)))


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite; one sum answers for almost every tensor."""
    if tensor.dtype not in (torch.bfloat16, torch.float32, torch.float64):  # narrow ones: their sum is not
        tensor = tensor.float()
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())

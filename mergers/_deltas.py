"""The deltas of several models beside each other, module by module and read by rows: from factors where they
are low rank, as differences from the base where models are full; never more than a stretch of rows is dense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mergers._inputs import Opened
from mergers._sources import FLOATS, Source, stored
from mergers._sources import Reader as Values
from mergers._stream import is_finite
from mergers._subspaces import matrix_shape
from studio.adapters import Adapter, Factors
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.module_names import tensor_names, weight_names

#: Reads the rows begin <= i < end of a delta, given the base's rows.
Reader = Callable[[int, int, Tensor | None], Tensor]


class Infinite(Exception):
    """The base itself holds values that are not finite; such a tensor is copied and has no figures."""


@dataclass(frozen=True, kw_only=True)
class Deltas:
    """One module's deltas, None where a model leaves it alone; the merged one last.

    factors   of all models, where none of the deltas needs the base
    """

    name: str
    shape: tuple[int, int]
    readers: Sequence[Reader | None]
    models: Sequence[str]
    base: Checkpoint | None = None
    tensor: str = ""
    factors: Sequence[Factors | None] | None = None

    def rows(self, begin: int, end: int) -> list[Tensor | None]:
        """Return the deltas' rows [end - begin, columns] in float32."""
        ground = None
        if self.factors is None and self.base is not None:
            width = self.shape[1]
            ground = self.base.read_flat(self.tensor, begin * width, end * width).float().view(-1, width)
            if not is_finite(ground):
                raise Infinite
        found: list[Tensor | None] = []
        for reader, model in zip(self.readers, self.models, strict=True):
            part = None if reader is None else reader(begin, end, ground)
            if part is not None and not is_finite(part):
                raise MergeError(
                    f"'{self.name}' of {model} holds values that are not finite; the model is damaged"
                )
            found.append(part)
        return found


def deltas(opened: Opened, merged: Adapter | Checkpoint | None) -> list[Callable[[], Deltas]]:
    """Return what opens the deltas of each module that any of the models changes.

    Raises `MergeError` where full models, or deltas that depend on it, come without their base, and where
    shapes differ.
    """
    models = [*opened.models, *([merged] if merged is not None else [])]
    names = [str(m.folder) for m in models]
    adapters = [m for m in models if isinstance(m, Adapter)]
    if len(adapters) == len(models):
        return _of_adapters(adapters, opened.base, names)
    if opened.base is None:
        raise MergeError("figures of full models are about their differences from a base; name the base")
    return _of_models(models, opened.base, names)


def _of_adapters(
    adapters: Sequence[Adapter], base: Checkpoint | None, names: Sequence[str]
) -> list[Callable[[], Deltas]]:
    known = [set(a.names()) for a in adapters]
    shapes: dict[str, tuple[int, ...]] = {}
    for adapter in adapters:
        for name in adapter.names():
            if shapes.setdefault(name, adapter.shape(name)) != adapter.shape(name):
                raise MergeError(
                    f"'{name}' is {list(adapter.shape(name))} in {adapter.folder} but "
                    f"{list(shapes[name])} in another; adapters of different models cannot be compared"
                )
    values = {name: a.value_shape(name) for a in adapters for name in a.values}
    needs = next((a for a in adapters if a.values or any(map(a.is_dora, a.names()))), None)
    if needs is not None and base is None:
        raise MergeError(
            f"{needs.folder} stores whole tensors or DoRA, whose deltas depend on the base; name it"
        )
    tensors = weight_names(shapes, base) if base is not None else {}
    places = tensor_names(values, base) if base is not None else {}

    def module(name: str) -> Deltas:
        found = [a.factors(name) if name in k else None for a, k in zip(adapters, known, strict=True)]
        return _of_factors(name, shapes[name], found, names, base, tensors.get(name, ""))

    def whole(name: str) -> Deltas:
        shape = matrix_shape(values[name])
        readers = [_whole(a, name, shape[1]) if name in a.values else None for a in adapters]
        return Deltas(name=name, shape=shape, readers=readers, models=names, base=base, tensor=places[name])

    return [*(partial(module, name) for name in shapes), *(partial(whole, name) for name in values)]


def _of_factors(
    name: str,
    shape: Sequence[int],
    found: Sequence[Factors | None],
    models: Sequence[str],
    base: Checkpoint | None,
    tensor: str,
) -> Deltas:
    for factors, model in zip(found, models, strict=True):
        if factors is not None and not (is_finite(factors.a) and is_finite(factors.b)):
            raise MergeError(f"'{name}' of {model} holds values that are not finite; the adapter is damaged")
    low = all(f is None or f.magnitude is None for f in found)
    readers = [
        None if f is None else _low_rank(f) if f.magnitude is None else _dora(f, base, tensor) for f in found
    ]
    return Deltas(
        name=name, shape=matrix_shape(shape), readers=readers, models=models,
        base=None if low else base, tensor=tensor, factors=found if low else None,
    )  # fmt: skip


def _of_models(
    models: Sequence[Adapter | Checkpoint], base: Checkpoint, names: Sequence[str]
) -> list[Callable[[], Deltas]]:
    places = [_places(m, base) if isinstance(m, Adapter) else {} for m in models]
    full = [Source(donor=base, checkpoint=m) if isinstance(m, Checkpoint) else None for m in models]
    wanted = [
        name for name in base.names()
        if base.entry(name).kind in FLOATS and (any(full) or any(name in own for own in places))
    ]  # fmt: skip

    def tensor(name: str) -> Deltas:
        shape = matrix_shape(base.shape(name))
        readers: list[Reader | None] = []
        for source, own, model in zip(full, places, names, strict=True):
            if source is None:
                readers.append(own[name](shape[1]) if name in own else None)
            elif source.shape(name) != base.shape(name):
                raise MergeError(
                    f"'{name}' is {list(source.shape(name))} in {model} but {list(base.shape(name))} in "
                    f"{base.folder}; models of different shapes cannot be compared"
                )
            else:
                readers.append(_stored(source.reader(name), shape[1]))
        return Deltas(name=name, shape=shape, readers=readers, models=names, base=base, tensor=name)

    return [partial(tensor, name) for name in wanted]


def _places(adapter: Adapter, base: Checkpoint) -> Mapping[str, Callable[[int], Reader]]:
    """Return, by the base's tensors, what opens an adapter's delta given the width of a row."""
    shapes = {name: adapter.shape(name) for name in adapter.names()}
    values = {name: adapter.value_shape(name) for name in adapter.values}

    def module(name: str, tensor: str, width: int) -> Reader:
        factors = adapter.factors(name)
        return _low_rank(factors) if factors.magnitude is None else _dora(factors, base, tensor)

    found = {t: partial(module, name, t) for name, t in weight_names(shapes, base).items()}
    return found | {t: partial(_whole, adapter, name) for name, t in tensor_names(values, base).items()}


def _low_rank(factors: Factors) -> Reader:
    return lambda begin, end, ground: factors.b[begin:end] @ factors.a


def _dora(factors: Factors, base: Checkpoint | None, tensor: str) -> Reader:
    """Return what reads a DoRA delta ``s (W + b a) - W``; the lengths s are found once."""
    assert base is not None
    scale = factors.scale(base.read(tensor))
    along = scale.reshape(-1, 1) if factors.output_axis == 0 else scale.reshape(1, -1)

    def read(begin: int, end: int, ground: Tensor | None) -> Tensor:
        assert ground is not None
        factor = along[begin:end] if factors.output_axis == 0 else along
        return torch.addmm(ground, factors.b[begin:end], factors.a).mul_(factor).sub_(ground)

    return read


def _whole(adapter: Adapter, name: str, width: int) -> Reader:
    return _stored(stored(adapter.checkpoint, adapter.stored(name)), width)


def _stored(values: Values, width: int) -> Reader:
    """Return what reads a model's values and takes off the base's."""

    def read(begin: int, end: int, ground: Tensor | None) -> Tensor:
        assert ground is not None
        return values(begin * width, end * width, None).float().view(-1, width) - ground

    return read

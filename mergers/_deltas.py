"""The deltas of several models beside each other, module by module and read by rows: from factors where they
are low rank, as differences from the base where models are full; never more than a stretch of rows is dense.

Figures of a merge and comparisons of models both stand on `Deltas.rows`.
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

    base      what the readers take off, by the name ``tensor`` there; without it they give values as they are
    factors   of all models, where none of the deltas needs the base
    checked   whether values that are not finite are refused
    """

    name: str
    shape: tuple[int, int]
    readers: Sequence[Reader | None]
    models: Sequence[str]
    base: Checkpoint | None = None
    tensor: str = ""
    factors: Sequence[Factors | None] | None = None
    checked: bool = True

    def rows(self, begin: int, end: int) -> list[Tensor | None]:
        """Return the deltas' rows [end - begin, columns] in float32."""
        ground = None
        if self.factors is None and self.base is not None:
            width = self.shape[1]
            ground = self.base.read_flat(self.tensor, begin * width, end * width).float().view(-1, width)
            if self.checked and not is_finite(ground):
                raise Infinite
        found: list[Tensor | None] = []
        for reader, model in zip(self.readers, self.models, strict=True):
            part = None if reader is None else reader(begin, end, ground)
            if self.checked and part is not None and not is_finite(part):
                raise MergeError(
                    f"'{self.name}' of {model} holds values that are not finite; the model is damaged"
                )
            found.append(part)
        return found


def deltas(opened: Opened, merged: Adapter | Checkpoint | None) -> list[Callable[[], Deltas]]:
    """Return what opens the deltas of each module that any of the models changes; biases are left out.

    Raises `MergeError` where full models, or deltas that depend on it, come without their base, and where
    shapes differ.
    """
    models = [*opened.models, *([merged] if merged is not None else [])]
    names = [str(m.folder) for m in models]
    adapters = [m for m in models if isinstance(m, Adapter)]
    if len(adapters) == len(models):
        _same_shapes(adapters)
        return list(of_adapters(adapters, opened.base).values())
    if opened.base is None:
        raise MergeError("figures of full models are about their differences from a base; name the base")
    return _of_models(models, opened.base, names)


def adapter_shapes(adapter: Adapter, biases: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the tensors that an adapter changes, by the model's names, with their shapes."""
    found = {f"{name}.weight": adapter.shape(name) for name in adapter.names()}
    for name in adapter.names() if biases else ():
        if adapter.has_bias(name):
            axis = 1 if adapter.kind(name) in ("transposed", "embedding") else 0
            found[f"{name}.bias"] = (adapter.shape(name)[axis],)
    return found | {name: adapter.value_shape(name) for name in adapter.values}


def of_adapters(
    adapters: Sequence[Adapter], base: Checkpoint | None, *, biases: bool = False, checked: bool = True
) -> dict[str, Callable[[], Deltas]]:
    """Return tensor of the model -> what opens its deltas; where shapes differ there is none.

    Raises `MergeError` where deltas depend on a base and there is none.
    """
    needs = next((a for a in adapters if a.values or any(map(a.is_dora, a.names()))), None)
    if needs is not None and base is None:
        raise MergeError(
            f"{needs.folder} stores whole tensors or DoRA, whose deltas depend on the base; name it"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    differ: set[str] = set()
    for adapter in adapters:
        for name, shape in adapter_shapes(adapter, biases).items():
            if shapes.setdefault(name, shape) != shape:
                differ.add(name)
    known = [set(a.names()) for a in adapters]
    values = {name for a in adapters for name in a.values}
    models = [str(a.folder) for a in adapters]
    tensors: dict[str, str] = {}
    if base is not None:
        whole = {name: shape for name, shape in shapes.items() if name in values - differ}
        modules = [name for name in shapes if name.endswith(".weight") and name not in values | differ]
        tensors = tensor_names(whole, base)
        if any(a.is_dora(name) for a in adapters for name in a.names()):
            own = {name.removesuffix(".weight"): shapes[name] for name in modules}
            tensors |= {f"{name}.weight": tensor for name, tensor in weight_names(own, base).items()}

    def opened(name: str) -> Deltas:
        module, _, leaf = name.rpartition(".")
        shape = matrix_shape(shapes[name])
        if name in values:
            readers = [_whole(a, name, shape[1]) if name in a.values else None for a in adapters]
            return Deltas(
                name=name, shape=shape, readers=readers, models=models, base=base, tensor=tensors[name],
                checked=checked,
            )  # fmt: skip
        found = [a.factors(module) if module in k else None for a, k in zip(adapters, known, strict=True)]
        if leaf == "bias":
            changes = [None if f is None or f.bias is None else _rows_of(f.bias) for f in found]
            return Deltas(name=name, shape=shape, readers=changes, models=models, checked=checked)
        return _of_factors(module, shape, found, models, base, tensors.get(name, ""), checked)

    return {name: partial(opened, name) for name in shapes if name not in differ}


def of_sources(
    sources: Sequence[Source], name: str, *, changes: bool, models: Sequence[str] = ()
) -> Callable[[], Deltas]:
    """Return what opens one tensor of the sources' donor: its values, or with ``changes`` its deltas.

    A source that leaves the tensor alone has None. Values that are not finite are let through.
    """

    def opened() -> Deltas:
        donor = sources[0].donor
        shape = matrix_shape(donor.shape(name))
        readers = [_of_source(s, name, shape[1], changes) if has(s, name) else None for s in sources]
        return Deltas(
            name=name, shape=shape, readers=readers, models=models or [""] * len(sources),
            base=donor if changes else None, tensor=name, checked=False,
        )  # fmt: skip

    return opened


def has(source: Source, name: str) -> bool:
    """Return whether a model has a tensor of its donor, or an adapter changes it."""
    try:
        return source.has(name)
    except MergeError:  # a full model that lacks it
        return False


def _of_source(source: Source, name: str, width: int, changes: bool) -> Reader:
    if source.adapter is not None:
        return _of_adapter(source.adapter, source.donor, name, source.modules[name], width)
    values = source.reader(name)
    if changes:
        return _stored(values, width)
    return lambda begin, end, ground: values(begin * width, end * width, None).float().view(-1, width)


def _same_shapes(adapters: Sequence[Adapter]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for adapter in adapters:
        for name in adapter.names():
            if shapes.setdefault(name, adapter.shape(name)) != adapter.shape(name):
                raise MergeError(
                    f"'{name}' is {list(adapter.shape(name))} in {adapter.folder} but "
                    f"{list(shapes[name])} in another; adapters of different models cannot be compared"
                )


def _of_factors(
    name: str,
    shape: tuple[int, int],
    found: Sequence[Factors | None],
    models: Sequence[str],
    base: Checkpoint | None,
    tensor: str,
    checked: bool,
) -> Deltas:
    for factors, model in zip(found, models, strict=True):
        if checked and factors is not None and not (is_finite(factors.a) and is_finite(factors.b)):
            raise MergeError(f"'{name}' of {model} holds values that are not finite; the adapter is damaged")
    low = all(f is None or f.magnitude is None for f in found)
    readers = [
        None if f is None else _low_rank(f) if f.magnitude is None else _dora(f, base, tensor) for f in found
    ]
    return Deltas(
        name=name, shape=shape, readers=readers, models=models, base=None if low else base, tensor=tensor,
        factors=found if low else None, checked=checked,
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
        for source, own, model, adapter in zip(full, places, names, models, strict=True):
            if source is None:
                assert isinstance(adapter, Adapter)
                readers.append(_of_adapter(adapter, base, name, own[name], shape[1]) if name in own else None)
            elif source.shape(name) != base.shape(name):
                raise MergeError(
                    f"'{name}' is {list(source.shape(name))} in {model} but {list(base.shape(name))} in "
                    f"{base.folder}; models of different shapes cannot be compared"
                )
            else:
                readers.append(_stored(source.reader(name), shape[1]))
        return Deltas(name=name, shape=shape, readers=readers, models=names, base=base, tensor=name)

    return [partial(tensor, name) for name in wanted]


def _places(adapter: Adapter, base: Checkpoint) -> Mapping[str, str]:
    """Return, by the base's tensors, what an adapter calls those that it changes, but for biases."""
    shapes = {name: adapter.shape(name) for name in adapter.names()}
    values = {name: adapter.value_shape(name) for name in adapter.values}
    weights = {tensor: name for name, tensor in weight_names(shapes, base).items()}
    return weights | {tensor: name for name, tensor in tensor_names(values, base).items()}


def _of_adapter(adapter: Adapter, base: Checkpoint, tensor: str, name: str, width: int) -> Reader:
    """Return what reads an adapter's delta of the base's ``tensor``, which the adapter calls ``name``."""
    if name in adapter.values:
        return _whole(adapter, name, width)
    factors = adapter.factors(name)
    if tensor.endswith(".bias"):
        assert factors.bias is not None
        return _rows_of(factors.bias)
    return _low_rank(factors) if factors.magnitude is None else _dora(factors, base, tensor)


def _rows_of(change: Tensor) -> Reader:
    return lambda begin, end, ground: change[begin:end].float().view(-1, 1)


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

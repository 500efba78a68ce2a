"""What differs between two models, between two adapters, or what one of them changes; group by group.

Groups are a tower's layers, its embeddings, norms and head, and the rest of it. Models are compared by their
values, or with a base by what each changed of it; adapters by their true deltas. Tensors are read a stretch
at a time, so that the memory does not depend on the models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mergers._differences import Diff, Figures
from mergers._groups import group_of, towers_of
from mergers._sources import Source, tied_name
from mergers._threads import one_torch_thread
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.log import Log, QuietLog
from studio.module_names import tensor_names, weight_names
from studio.tensorfile import TORCH_NAMES

#: Elements that are read of a tensor at a time.
STRETCH = 1 << 20

#: Reads the elements begin <= i < end of a flattened tensor.
Reader = Callable[[int, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One tensor on both sides: its name, how many elements it has, and what opens the two readers."""

    name: str
    numel: int
    opened: Callable[[], tuple[Reader, Reader]]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """All that is compared, and what is not."""

    pairs: Sequence[Pair]
    towers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    only_one: tuple[str, ...] = ()
    only_two: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def diff(
    one: str | Path,
    two: str | Path | None = None,
    *,
    base: str | Path | None = None,
    log: Log | None = None,
) -> Diff:
    """Return what differs between two models or two adapters, or what one of them changes.

    With a ``base`` full models are compared by what they changed of it, also with an adapter on it. DoRA and
    tensors that are stored whole need the base too; without one it is that which the adapter names.

    Raises `MergeError` for a full model with nothing to compare it with, or beside an adapter without a base.
    """
    given = [side for side in (one, two) if side is not None]
    adapters = [is_adapter(side) for side in given]
    if all(adapters):
        sides = _of_adapters([read_adapter(side) for side in given], base)
    elif base is not None:
        donor = Checkpoint(base)
        sides = _of_models(donor, [_source(side, donor) for side in given], changes=True)
    elif two is None:
        raise MergeError(f"{one} is a full model: give another to compare it with, or its base")
    elif any(adapters):
        raise MergeError(f"{one} and {two} are a full model and an adapter; name the base of both")
    else:
        donor = Checkpoint(one)
        sides = _of_models(donor, [Source(donor=donor, checkpoint=donor), _source(two, donor)], changes=False)
    log = log or QuietLog()
    log.stage("diff", len(sides.pairs), "tensors")
    groups: dict[str, Figures] = {}
    with one_torch_thread():
        for pair in sides.pairs:
            groups.setdefault(_label(pair.name, sides.towers), Figures()).join(_figures(pair))
            log.advance(1)
    return Diff(
        one=str(one),
        two=str(two or ""),
        groups={name: groups[name] for name in sorted(groups, key=_natural)},
        only_one=sides.only_one,
        only_two=sides.only_two,
        skipped=sides.skipped,
    )


def _figures(pair: Pair) -> Figures:
    first, second = pair.opened()
    found = Figures(tensors=1)
    for begin in range(0, pair.numel, STRETCH):
        end = min(begin + STRETCH, pair.numel)
        found.add(first(begin, end).float().reshape(-1), second(begin, end).float().reshape(-1))
    found.changed = int(found.apart > 0 or found.odd > 0)
    return found


def _label(name: str, towers: Mapping[str, Sequence[str]]) -> str:
    """Return the group of a tensor as the table calls it."""
    group = group_of(name, towers)
    return group.label if group.layer is None else f"{group.tower}.layers.{group.layer}"


def _natural(label: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", label)]


# Full models, and adapters on a base.


def _source(side: str | Path, donor: Checkpoint) -> Source:
    if is_adapter(side):
        return Source(donor=donor, adapter=read_adapter(side))
    return Source(donor=donor, checkpoint=Checkpoint(side))


def _of_models(donor: Checkpoint, sources: Sequence[Source], changes: bool) -> Sides:
    """Return the donor's tensors as the sides have them, or with ``changes`` what they changed of it."""
    pairs, skipped = [], []
    missing: list[list[str]] = [[], []]
    for name in donor.names():
        here = [_here(source, name) for source in sources]
        for side, found in enumerate(here):
            if not found and sources[side].checkpoint is not None:
                missing[side].append(name)
        if any(not found and s.checkpoint is not None for found, s in zip(here, sources, strict=True)):
            continue
        entry = donor.entry(name)
        if entry.kind not in TORCH_NAMES or any(
            source.shape(name) != entry.shape for source, found in zip(sources, here, strict=True) if found
        ):
            skipped.append(name)
            continue
        pairs.append(Pair(name=name, numel=entry.numel, opened=partial(_open, donor, sources, name, changes)))
    extra = [_extra(source, donor) for source in sources] + [[]]
    return Sides(
        pairs=pairs,
        towers=towers_of(donor.config),
        only_one=(*missing[1], *extra[0]),
        only_two=(*missing[0], *extra[1]),
        skipped=tuple(skipped),
    )


def _open(donor: Checkpoint, sources: Sequence[Source], name: str, changes: bool) -> tuple[Reader, Reader]:
    def side(source: Source) -> Reader:
        if not _here(source, name):
            return _nothing
        values = source.reader(name)

        def read(begin: int, end: int) -> Tensor:
            ground = donor.read_flat(name, begin, end).float() if changes else None
            found = values(begin, end, ground).float()
            return found if ground is None else found - ground

        return read

    first = side(sources[0])
    return first, side(sources[1]) if len(sources) > 1 else _nothing


def _here(source: Source, name: str) -> bool:
    try:
        return source.has(name)
    except MergeError:  # a full model that lacks it
        return False


def _extra(source: Source, donor: Checkpoint) -> list[str]:
    """Return what a full model has beyond the donor; a second copy of a tied tensor is none."""
    found = source.checkpoint
    return [n for n in source.extra(donor) if found is not None and tied_name(found, n) is None]


def _nothing(begin: int, end: int) -> Tensor:
    return torch.zeros(end - begin)


# Adapters by themselves.


def _of_adapters(adapters: Sequence[Adapter], base: str | Path | None) -> Sides:
    """Return the modules of both, an absent one as a zero delta."""
    ground = _ground(adapters, base)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for adapter in adapters:
        for name, shape in _tensors(adapter).items():
            shapes.setdefault(name, []).append(shape)
    pairs = [
        Pair(name=name, numel=math.prod(own[0]), opened=partial(_open_deltas, adapters, name, ground))
        for name, own in shapes.items()
        if len(set(own)) == 1
    ]
    sets = [set(_tensors(adapter)) for adapter in adapters] + [set(shapes)]
    family = next((adapter.family for adapter in adapters if adapter.family), "")
    return Sides(
        pairs=pairs,
        towers=towers_of(ground.config if ground is not None else {}, family),
        only_one=tuple(name for name in shapes if name not in sets[1]),
        only_two=tuple(name for name in shapes if name not in sets[0]),
        skipped=tuple(name for name, own in shapes.items() if len(set(own)) > 1),
    )


def _tensors(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Return the tensors that an adapter changes, by the model's names, with their shapes."""
    found = {f"{name}.weight": adapter.shape(name) for name in adapter.names()}
    for name in adapter.names():
        if adapter.has_bias(name):
            axis = 1 if adapter.kind(name) in ("transposed", "embedding") else 0
            found[f"{name}.bias"] = (adapter.shape(name)[axis],)
    return found | {name: adapter.value_shape(name) for name in adapter.values}


def _ground(adapters: Sequence[Adapter], base: str | Path | None) -> Checkpoint | None:
    """Return the base that deltas depend on, if any does."""
    needs = [a for a in adapters if a.values or any(map(a.is_dora, a.names()))]
    if not needs:
        return None
    return Checkpoint(base if base is not None else find_model(needs[0].base))


def _open_deltas(adapters: Sequence[Adapter], name: str, base: Checkpoint | None) -> tuple[Reader, Reader]:
    readers = [_delta(adapter, name, base) for adapter in adapters]
    return readers[0], readers[1] if len(readers) > 1 else _nothing


def _delta(adapter: Adapter, name: str, base: Checkpoint | None) -> Reader:
    if name in adapter.values:
        assert base is not None
        place = tensor_names({name: adapter.value_shape(name)}, base)[name]
        stored = adapter.stored(name)
        return lambda begin, end: (
            adapter.checkpoint.read_flat(stored, begin, end).float()
            - base.read_flat(place, begin, end).float()
        )
    module, _, leaf = name.rpartition(".")
    if module not in adapter.names() or (leaf == "bias" and not adapter.has_bias(module)):
        return _nothing
    factors = adapter.factors(module)
    if leaf == "bias":
        bias = factors.bias
        assert bias is not None
        return lambda begin, end: bias[begin:end]
    if factors.magnitude is not None:
        assert base is not None
        whole = factors.delta(base.read(weight_names({module: factors.shape}, base)[module])).reshape(-1)
        return lambda begin, end: whole[begin:end]
    columns = factors.a.shape[1]

    def rows(begin: int, end: int) -> Tensor:
        first, last = begin // columns, -(-end // columns)
        return (factors.b[first:last] @ factors.a).reshape(-1)[
            begin - first * columns : end - first * columns
        ]

    return rows

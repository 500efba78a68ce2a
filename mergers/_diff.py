"""What differs between two models, between two adapters, or what one of them changes; group by group.

Groups are a tower's layers, its embeddings, norms and head, and the rest of it. Models are compared by their
values, or with a base by what each changed of it; adapters by their true deltas. Tensors are read a stretch
at a time, so that the memory does not depend on the models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mergers._deltas import Deltas, adapter_shapes, has, of_adapters, of_sources
from mergers._differences import Diff, Figures
from mergers._groups import group_of, towers_of
from mergers._sources import Source, tied_name
from mergers._subspaces import pieces
from mergers._threads import one_torch_thread
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.log import Log, QuietLog
from studio.tensorfile import TORCH_NAMES

#: Elements that are read of a tensor at a time.
STRETCH = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Sides:
    """All that is compared, by tensor name, and what is not."""

    pairs: Mapping[str, Callable[[], Deltas]]
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
        for name, opened in sides.pairs.items():
            groups.setdefault(_label(name, sides.towers), Figures()).join(_figures(opened()))
            log.advance(1)
    return Diff(
        one=str(one),
        two=str(two or ""),
        groups={name: groups[name] for name in sorted(groups, key=_natural)},
        only_one=sides.only_one,
        only_two=sides.only_two,
        skipped=sides.skipped,
    )


def _figures(pair: Deltas) -> Figures:
    """Return the figures of one tensor on both sides; an absent one, or no second side, is zero."""
    found, (height, width) = Figures(tensors=1), pair.shape
    for begin, end in pieces(height, width, STRETCH):
        zero = torch.zeros((end - begin) * width)
        sides = [zero if part is None else part.reshape(-1) for part in pair.rows(begin, end)]
        found.add(sides[0], sides[1] if len(sides) > 1 else zero)
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
    pairs: dict[str, Callable[[], Deltas]] = {}
    skipped = []
    missing: list[list[str]] = [[], []]
    for name in donor.names():
        here = [has(source, name) for source in sources]
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
        pairs[name] = of_sources(sources, name, changes=changes)
    extra = [_extra(source, donor) for source in sources] + [[]]
    return Sides(
        pairs=pairs,
        towers=towers_of(donor.config),
        only_one=(*missing[1], *extra[0]),
        only_two=(*missing[0], *extra[1]),
        skipped=tuple(skipped),
    )


def _extra(source: Source, donor: Checkpoint) -> list[str]:
    """Return what a full model has beyond the donor; a second copy of a tied tensor is none."""
    found = source.checkpoint
    return [n for n in source.extra(donor) if found is not None and tied_name(found, n) is None]


# Adapters by themselves.


def _of_adapters(adapters: Sequence[Adapter], base: str | Path | None) -> Sides:
    """Return the modules of both, an absent one as a zero delta."""
    ground = _ground(adapters, base)
    pairs = of_adapters(adapters, ground, biases=True, checked=False)
    first, *others = [adapter_shapes(adapter) for adapter in adapters]
    second = others[0] if others else first
    family = next((adapter.family for adapter in adapters if adapter.family), "")
    return Sides(
        pairs=pairs,
        towers=towers_of(ground.config if ground is not None else {}, family),
        only_one=tuple(name for name in first if name not in second),
        only_two=tuple(name for name in second if name not in first),
        skipped=tuple(name for name in {**first, **second} if name not in pairs),
    )


def _ground(adapters: Sequence[Adapter], base: str | Path | None) -> Checkpoint | None:
    """Return the base that deltas depend on, if any does."""
    needs = [a for a in adapters if a.values or any(map(a.is_dora, a.names()))]
    if not needs:
        return None
    return Checkpoint(base if base is not None else find_model(needs[0].base))

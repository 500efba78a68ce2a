"""The work on one tensor: read, merge, check, write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from mergers._ops import Place
from mergers._plan import Step
from mergers._report import ModuleReport
from mergers._sources import Source
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.shards import ShardWriter


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all tensors of a merge share."""

    donor: Checkpoint
    base: Checkpoint | None
    sources: Sequence[Source]
    method: ModuleType
    place: Place
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A merged tensor's report, and the squared error that storing it in the base's type cost."""

    report: ModuleReport
    lost: float


def merge_tensor(work: Work, step: Step, writer: ShardWriter) -> Done | None:
    """Merge or copy one tensor into the writer; None for a copy."""
    if step.action == "copy":
        copy_tensor(work.donor, step.name, writer)
        return None
    count = math.prod(step.shape)
    ground = work.donor.read_flat(step.name, 0, count).float()
    if work.base is not None and not is_finite(ground):
        copy_tensor(work.donor, step.name, writer)
        return None
    tensors = []
    for source, name in zip(work.sources, work.names, strict=True):
        values = source.read(step.name, 0, count, ground).float()
        if not is_finite(values):
            raise MergeError(
                f"'{step.name}' of {name} holds values that are not finite; the model is damaged"
            )
        tensors.append(values.view(step.shape))
    base = ground.view(step.shape) if work.base is not None else None
    longest = max(float((t.view(-1) - ground).norm()) for t in tensors)
    place = replace(work.place, tensor=step.name)
    extra = {"place": place} if "place" in (work.method.merge.__kwdefaults__ or {}) else {}
    merged: Tensor = work.method.merge(tensors, base, **extra, **step.settings)
    stored = merged.reshape(-1).to(work.donor.dtype(step.name))
    back = stored.float()
    if not is_finite(back):
        raise MergeError(
            f"merging '{step.name}' gives values that {stored.dtype} cannot hold; lower the weights"
        )
    writer.write_flat(step.name, 0, stored)
    norm, lost = float((merged.reshape(-1) - ground).norm()), float((back - merged.reshape(-1)).norm())
    report = ModuleReport(name=step.name, rank=0, energy=1.0, norm=norm, longest=longest)
    return Done(report=report, lost=lost**2)


def copy_tensor(donor: Checkpoint, name: str, writer: ShardWriter, block: int = 1 << 24) -> None:
    """Copy a tensor's bytes as they are."""
    size = donor.entry(name).nbytes
    for begin in range(0, size, block):
        writer.write_raw(name, begin, donor.read_raw(name, begin, min(begin + block, size)))


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite; one sum answers for almost every tensor."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())

"""The output as parts whose tensors come from the same models: one part, or the slices of a mergekit file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergers._inputs import Opened
from mergers._sources import Source, sources
from mergers._spec import MergeSpec
from studio.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Part:
    """Tensors of the output that are made from the same models in the same way.

    donor     names them, and tells shapes and what is copied; a view, where layers are renumbered
    base      what differences are taken from, by the donor's names; None for methods without one
    sources   the models, by the donor's names; ``numbers`` are their places in the spec
    """

    donor: Checkpoint
    base: Checkpoint | None
    sources: Sequence[Source]
    numbers: tuple[int, ...]


def parts_of(spec: MergeSpec, opened: Opened, donor: Checkpoint) -> list[Part]:
    """Return the parts of a merge into a full model, in the order of the output."""
    found = sources(opened, donor)
    return [Part(donor=donor, base=opened.base, sources=found, numbers=tuple(range(len(found))))]

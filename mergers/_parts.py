"""The output as parts whose tensors come from the same models: one part, or the slices of a mergekit file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mergers._assign import Choice
from mergers._inputs import Opened
from mergers._sources import Input, sources
from mergers._spec import MergeSpec
from studio.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Part:
    """Tensors of the output that are made from the same models in the same way.

    donor     names them, and tells shapes and what is copied; a view, where layers are renumbered
    base      what differences are taken from, by the donor's names; None for methods without one
    sources   the models, by the donor's names; ``numbers`` are their places in the spec
    guarded   whether the donor's values are the base's: where they are not finite they are copied
    choices   tensor -> what happens to it, where the slices of a file say so; ``stored`` -> as which type
    shapes    tensor -> its shape where it is not the donor's, whose values are then read by ``ground``
    """

    donor: Checkpoint
    base: Checkpoint | None
    sources: Sequence[Input]
    numbers: tuple[int, ...]
    guarded: bool = False
    choices: Mapping[str, Choice] | None = None
    stored: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ground: Input | None = None


def parts_of(spec: MergeSpec, opened: Opened, donor: Checkpoint) -> list[Part]:
    """Return the parts of a merge into a full model, in the order of the output."""
    if spec.recipe is not None:
        from mergers._slices import Slicer

        return Slicer(spec=spec, opened=opened, donor=donor).parts()
    found = sources(opened, donor)
    return [
        Part(
            donor=donor, base=opened.base, guarded=opened.base is not None, sources=found,
            numbers=tuple(range(len(found))),
        )
    ]  # fmt: skip


def adjust_companions(spec: MergeSpec, opened: Opened, donor: Checkpoint, folder: Path) -> None:
    """Change the donor's configuration and tokenizer in a finished output where a file asks for others."""
    if spec.recipe is not None:
        from mergers._slices import Slicer

        Slicer(spec=spec, opened=opened, donor=donor).adjust(folder)

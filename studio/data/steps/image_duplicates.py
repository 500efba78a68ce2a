"""Near duplicates by picture: rows that say the same as an earlier row of their file over nearly its picture.

Found are pictures that were saved again, resized, brightened, blurred, noised or, with ``crops``, cut at the
edges; turned and mirrored ones are other pictures. Rows with nearly the same picture and question
but another answer are no duplicates: one of them may be wrong, and the report names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from studio.data.steps._near import repeated_media
from studio.data.steps._step import Bench, Outcome, name_of, removal, within
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How near is too near."""

    similarity: float = field(
        default=0.988, metadata={"help": "least correlation of two pictures, grey and 20 pixels wide"}
    )
    crops: bool = field(default=True, metadata={"help": "find pictures of which edges were cut away"})


def check(settings: Settings) -> None:
    """Refuse a correlation that is none."""
    within(settings, similarity=(0.5, 1))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the later of two rows with the same texts and nearly the same pictures."""
    found, report = repeated_media(samples, True, settings.similarity, settings.crops, bench)
    edits = [
        removal(samples[at], f"nearly the picture of {name_of(samples[other], samples[at])} ({share:.3f})")
        for at, (other, share) in found.items()
    ]
    return Outcome(edits=edits, report=report)

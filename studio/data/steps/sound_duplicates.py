"""Near duplicates by sound: rows that say the same as an earlier row of their file over nearly its sound.

Found are clips that were saved again, made louder, noised, or played up to 3 % faster or slower. Another
recording of the same words is another sound. No Chromaprint is needed: it is made for music, and for
clips that are longer than most in such sets.
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
        default=0.93, metadata={"help": "least correlation of two mel spectrograms of one length"}
    )


def check(settings: Settings) -> None:
    """Refuse a correlation that is none."""
    within(settings, similarity=(0.6, 1))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the later of two rows with the same texts and nearly the same sounds."""
    found, report = repeated_media(samples, False, settings.similarity, False, bench)
    edits = [
        removal(samples[at], f"nearly the sound of {name_of(samples[other], samples[at])} ({share:.3f})")
        for at, (other, share) in found.items()
    ]
    return Outcome(edits=edits, report=report)

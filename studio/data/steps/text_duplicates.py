"""Near duplicates by text: rows worded nearly as an earlier row of their file, over the same media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from studio.data.steps._near import media_keys, worded_alike
from studio.data.steps._step import Bench, Outcome, name_of, removal, within
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How near is too near."""

    similarity: float = field(
        default=0.7,
        metadata={"help": "least share of common character 5-grams, of the prompt and the answer"},
    )


def check(settings: Settings) -> None:
    """Refuse a share that is none."""
    within(settings, similarity=(0.3, 1))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the later of two rows whose texts are nearly the same, if their media are the same bytes."""
    media = media_keys(samples, bench)
    rooms = [(sample.file, key) for sample, key in zip(samples, media, strict=True)]
    found = worded_alike(samples, rooms, settings.similarity, bench)
    edits = [
        removal(samples[at], f"says nearly the same as {name_of(samples[other], samples[at])} ({share:.2f})")
        for at, (other, share) in found.items()
    ]
    return Outcome(edits=edits)

"""Where the media of an attacked row lie: named by the row's contents, so that they are found again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from studio.files import sha256_file
from studio.types import Image, Sample, Sound, Text

#: Without loss, and quickly read.
SUFFIXES: dict[type[Image] | type[Sound], str] = {Image: ".bmp", Sound: ".wav"}


def elsewhere(
    sample: Sample, kind: type[Image] | type[Sound], folder: Path, name: str
) -> tuple[Sample, list[Path]]:
    """Return a row whose media of one kind lie in ``folder``, and their paths; nothing is written."""
    paths: list[Path] = []
    turns = []
    for turn in sample.turns:
        parts = list(turn.parts)
        for at, part in enumerate(parts):
            if isinstance(part, kind):
                paths.append(folder / f"{name}-{len(paths)}{SUFFIXES[kind]}")
                parts[at] = kind(path=paths[-1])
        turns.append(replace(turn, parts=tuple(parts)))
    return replace(sample, turns=tuple(turns)), paths


def name_of(sample: Sample) -> str:
    """Return a name for what a row holds: a hash of its texts and the contents of its media."""
    told = [
        part.text if isinstance(part, Text) else sha256_file(part.path)
        for turn in sample.turns
        for part in turn.parts
    ]
    return hashlib.sha256("\n".join([sample.where, *told]).encode()).hexdigest()[:24]

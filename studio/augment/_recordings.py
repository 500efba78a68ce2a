"""Recordings that a step draws from: noises and impulse responses, read once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from studio._convert import Wrong
from studio.augment._settings import Draw
from studio.data.kept_facts import examine
from studio.log import QuietLog
from studio.media import load_sound

if TYPE_CHECKING:
    from studio.media import Samples

_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the sounds at a path: itself, or those in a folder and below, by name.

    Raises:
        Wrong: as the end of a sentence, if there is none.
    """
    files = (path,) if path.is_file() else tuple(sorted(path.rglob("*")))
    found = tuple(file for file in files if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise Wrong(f"'{path}' holds no sound; allowed: {', '.join(sorted(_SUFFIXES))}")
    return found


def check_recordings(path: Path) -> None:
    """Decode all recordings, those that are known from earlier excepted.

    Raises:
        Wrong: as the end of a sentence, if there is none, or one cannot be used.
    """
    found = examine([(file, False) for file in files_of(path)], QuietLog())
    for one in found.values():
        if one.facts.trouble:
            raise Wrong(f"holds what cannot be used: {one.facts.sentence}")


def recording(path: Path, draw: Draw, rate: int) -> Samples:
    """Return one of the sounds at a path as float32 [T] at ``rate``.

    Raises:
        MediaError: if it cannot be read.
    """
    files = files_of(path)
    return _read(files[draw.integers(len(files))], rate)


@lru_cache(maxsize=64)
def _read(path: Path, rate: int) -> Samples:
    return load_sound(path, rate)

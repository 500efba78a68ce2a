"""What families that hear and do not see have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studio.errors import DataError, MediaError
from studio.families import _chat
from studio.media import load_sound
from studio.types import Batch, Sample


def encode(
    processor: Any,
    sample: Sample,
    supervise: bool,
    media: Callable[[Any, _chat.Segment], Batch],
) -> Batch:
    """Encode one sample of sounds and text as `_chat.encode` does.

    Raises `DataError` for a picture, and `MediaError` for a sound that cannot be taken whole, with file and
    line.
    """
    if sample.images:
        raise DataError(f"{sample.where}: this model takes sounds and text, the row has a picture")
    try:
        return _chat.encode(processor, sample, supervise, media)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None


def waves(segment: _chat.Segment, rate: int, most: int = 0) -> list[Any]:
    """Return the sounds of a segment as float32 [T] of ``rate`` samples a second.

    Raises `MediaError` for one that cannot be read, or has more than ``most`` samples (0: no limit): an
    extractor would cut it and leave its text whole.
    """
    found = []
    for sound in segment.sounds:
        wave = load_sound(sound.path, rate)
        if most and len(wave) > most:
            raise MediaError(
                f"sound '{sound.path}' lasts {len(wave) / rate:.1f} s, the model takes at most "
                f"{most / rate:g} s; cut it and its text"
            )
        found.append(wave)
    return found

"""Media as benchmarks hand them over, as files that an encoder reads: named by content, written once."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from studio.errors import DataError
from studio.files import atomic_write
from studio.types import Image, Sound

#: How a WAV file says that its samples are floating-point numbers: nothing is rounded.
_FLOAT = 3
_SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def placed(medium: Any, folder: Path, kind: str = "") -> Image | Sound:
    """Return a medium as a part of a turn, written into ``folder`` if it is in no file yet.

    ``medium`` is a path, a PIL picture, or a mapping with ``array`` and ``sampling_rate``, with ``bytes``,
    with ``url`` or with ``path``; ``kind`` ("image", "audio") decides where its form does not.

    Raises:
        DataError: if it is none of these, or a video.
    """
    if isinstance(medium, Mapping):
        kind = str(medium.get("type") or kind)
        if "array" in medium and medium.get("sampling_rate"):
            return Sound(path=_sound(np.asarray(medium["array"]), int(medium["sampling_rate"]), folder))
        if isinstance(medium.get("bytes"), bytes):
            end = Path(str(medium.get("path") or "")).suffix or (".wav" if kind == "audio" else ".png")
            return placed(_written(medium["bytes"], end, folder), folder, kind)
        medium = medium.get("url") or medium.get("path")
    if isinstance(medium, (str, Path)) and "://" not in str(medium):
        path, end = Path(medium).absolute(), Path(medium).suffix.lower()
        if kind == "audio" or (end in _SOUNDS and kind != "image"):
            return Sound(path=path)
        if kind == "image" or end in _PICTURES:
            return Image(path=path)
    elif hasattr(medium, "convert") and hasattr(medium, "save"):
        held = io.BytesIO()
        medium.convert("RGB").save(held, format="PNG", compress_level=1)
        return Image(path=_written(held.getvalue(), ".png", folder))
    elif hasattr(medium, "get_all_samples"):  # what `datasets` decodes sounds with
        decoded = medium.get_all_samples()
        return Sound(path=_sound(np.asarray(decoded.data), int(decoded.sample_rate), folder))
    told = f"'{medium}'" if isinstance(medium, (str, Path)) else f"a {type(medium).__name__}"
    raise DataError(f"{told} cannot be shown: a picture or a sound, as a local file or in memory, is needed")


def _sound(samples: Any, rate: int, folder: Path) -> Path:
    wave = np.asarray(samples, dtype=np.float32)
    if wave.ndim == 2:  # channels first or last, whichever is fewer
        wave = wave.mean(axis=int(wave.shape[0] > wave.shape[1]))
    size = wave.nbytes
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, _FLOAT, 1, rate, 4 * rate, 4, 32, b"data", size,
    )  # fmt: skip
    return _written(header + wave.tobytes(), ".wav", folder)


def _written(data: bytes, end: str, folder: Path) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{end}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    return path

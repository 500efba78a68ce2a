"""What inputs measure: level, length, brightness, contrast, colour, length of texts; kept by content.

inputs = read_inputs(Path("new/"))      # a data file, or a plain folder of pictures, sounds and texts
measured(inputs)                        # values by (kind, feature)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from studio.cache import Kept
from studio.data.identity import media_hash
from studio.data.jsonl import data_splits, load_data
from studio.data.kept_facts import content_hashes
from studio.drift import Measured
from studio.errors import DataError, MediaError
from studio.log import Log
from studio.media import load_image, read_sound
from studio.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
UNITS: Mapping[str, Mapping[str, str]] = {
    "picture": {
        "brightness": "of 1", "contrast": "of 1", "saturation": "of 1", "red against green": "of 1",
        "yellow against blue": "of 1", "detail": "of 1", "size": "pixels",
    },
    "sound": {"level": "dBFS", "quiet parts": "dBFS", "length": "s", "pitch of the sound": "Hz"},
    "text": {"characters": "", "words": ""},
}  # fmt: skip
"""The features of each kind with their units; ``size`` is the root of a picture's area."""
SILENT = -100.0
"""The level of silence, in decibels of full scale."""
_SIDE = 256  # pictures are measured at most so wide and high
_VERSION = 1  # of what is measured, so that kept values of another one are not taken


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs by kind: different media by path, one for each content, and all texts."""

    pictures: tuple[Path, ...] = ()
    sounds: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()


def read_inputs(place: Path, split: str | None = None) -> Inputs:
    """Return the inputs of a data file, of a folder with data files, or of a plain folder of media and .txt.

    Raises:
        DataError: there is nothing, or rows that cannot be read.
    """
    if place.is_file() or (place.is_dir() and data_splits(place)):
        files = [place] if place.is_file() else list(data_splits(place).values())
        if split is not None:
            return inputs_of(load_data(place, split=split))
        return inputs_of([sample for file in files for sample in load_data(file)])
    if not place.is_dir():
        raise DataError(f"inputs '{place}' do not exist; allowed: a data file, or a folder of media")
    files = sorted(
        file
        for file in place.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(place).parts)
    )
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    sounds = [file for file in files if file.suffix.lower() in SOUNDS]
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    if not pictures and not sounds and not texts:
        raise DataError(f"inputs '{place}' hold no picture, no sound and no .txt file")
    return Inputs(
        pictures=_different(pictures),
        sounds=_different(sounds),
        texts=tuple(file.read_text(encoding="utf-8", errors="replace").strip() for file in texts),
    )


def inputs_of(samples: Sequence[Sample]) -> Inputs:
    """Return the inputs of rows: what users give, never what is answered."""
    asked = [turn for sample in samples for turn in sample.prompt if turn.role == "user"]
    return Inputs(
        pictures=_different([image.path for sample in samples for image in sample.images]),
        sounds=_different([sound.path for sample in samples for sound in sample.sounds]),
        texts=tuple(turn.text for turn in asked if turn.text.strip()),
    )


def measured(inputs: Inputs, log: Log, embeddings: Mapping[str, Values] | None = None) -> Measured:
    """Return what inputs measure; what was measured before is not decoded again.

    A medium that does not decode is left out, and the notes say how many there are.
    """
    notes: list[str] = []
    tables = {
        "picture": _kept("picture", inputs.pictures, log, notes),
        "sound": _kept("sound", inputs.sounds, log, notes),
        "text": [text_features(text) for text in inputs.texts],
    }
    values = {
        (kind, feature): np.array([row[feature] for row in rows])
        for kind, rows in tables.items()
        for feature in UNITS[kind]
        if rows
    }
    units = {(kind, feature): unit for kind, own in UNITS.items() for feature, unit in own.items()}
    return Measured(values=values, units=units, embeddings=dict(embeddings or {}), notes=tuple(notes))


def picture_features(path: Path) -> dict[str, float]:
    """Return the features of a picture; `MediaError` if it does not decode."""
    picture = load_image(path)
    width, height = picture.size
    picture.thumbnail((_SIDE, _SIDE))
    pixels = np.asarray(picture, dtype=np.float64) / 255
    red, green, blue = (pixels[..., at] for at in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    most = pixels.max(axis=2)
    grey = np.where(most > 0, most, 1.0)
    steps = [np.abs(np.diff(luma, axis=axis)).mean() if luma.shape[axis] > 1 else 0.0 for axis in (0, 1)]
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "saturation": float(((most - pixels.min(axis=2)) / grey).mean()),
        "red against green": float((red - green).mean()),
        "yellow against blue": float(((red + green) / 2 - blue).mean()),
        "detail": float(np.mean(steps)),
        "size": float((width * height) ** 0.5),
    }


def sound_features(path: Path) -> dict[str, float]:
    """Return the features of a sound; `MediaError` if it does not decode."""
    samples, rate = read_sound(path)
    wave = samples.astype(np.float64)
    frame = max(1, rate // 50)
    whole = wave[: max(1, len(wave) // frame) * frame]
    parts = whole.reshape(-1, frame) if len(whole) >= frame else whole[None]
    levels = np.sqrt((parts**2).mean(axis=1))
    power = np.abs(np.fft.rfft(parts * np.hanning(parts.shape[1]), axis=1)) ** 2
    pitches = np.fft.rfftfreq(parts.shape[1], 1 / rate)
    total = float(power.sum())
    return {
        "level": _decibels(float(np.sqrt((wave**2).mean()))),
        "quiet parts": _decibels(float(np.percentile(levels, 10))),
        "length": len(wave) / rate,
        "pitch of the sound": float((power.sum(axis=0) * pitches).sum() / total) if total > 0 else 0.0,
    }


def text_features(text: str) -> dict[str, float]:
    """Return the features of a text."""
    return {"characters": float(len(text)), "words": float(len(text.split()))}


def _kept(kind: str, paths: Sequence[Path], log: Log, notes: list[str]) -> list[dict[str, float]]:
    """Return the features of media that decode, measuring only what the cache does not know."""
    known, kept = content_hashes(paths), Kept()
    keys = {path: f"drift {_VERSION} {kind} {known.get(path) or media_hash(path)}" for path in paths}
    told = kept.get(list(keys.values()))
    missing = [path for path in paths if keys[path] not in told]
    if missing:
        log.stage(f"measuring {kind}s", len(missing), "files")
    fresh: dict[str, str] = {}
    wrong: list[str] = []
    for path in missing:
        try:
            features = picture_features(path) if kind == "picture" else sound_features(path)
        except MediaError as error:
            wrong.append(str(error))
        else:
            fresh[keys[path]] = json.dumps(features)
        log.advance()
    kept.put(fresh)
    if wrong:
        notes.append(f"left out {len(wrong)} of {len(paths)} {kind}s that do not decode, first: {wrong[0]}")
    found = told | fresh
    return [json.loads(found[keys[path]]) for path in paths if keys[path] in found]


def _different(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return one path for each content, the first; a file that cannot be read is told when it is decoded."""
    known = content_hashes(sorted(set(paths)))
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(known.get(path) or media_hash(path), path)
    return tuple(first.values())


def _decibels(amplitude: float) -> float:
    return max(SILENT, 20 * float(np.log10(max(amplitude, 1e-9))))


def digest_of(inputs: Inputs) -> str:
    """Return a SHA-256 over all inputs by content; their order and names do not matter."""
    media = sorted({media_hash(path) for path in (*inputs.pictures, *inputs.sounds)})
    return hashlib.sha256(json.dumps([media, sorted(inputs.texts)]).encode()).hexdigest()

"""What one medium file is, told by decoding it once: its form, its size, its faults, how it looks or sounds.

`studio.media` says whether a file can be used; this says what is remarkable about one that can, and which
kind of fault makes another unusable. Facts are plain values, so that they can be kept by content hash.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from studio import media
from studio.errors import MediaError
from studio.files import atomic_file
from studio.media import PICTURE_FORMATS, load_image, read_sound

Trouble = Literal["", "missing", "not_a_file", "empty_file", "bomb", "wrong_type", "truncated"]

#: Points of the drawn waveform.
BINS = 64
#: A value so near to full scale is taken for cut off there, if its neighbours are too.
FULL = 0.999
_RUN = 3
_ORIENTATION = 0x0112
_HEADS = 64
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WAV": (".wav",),
    "WAVEX": (".wav",),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3",),
    "AIFF": (".aif", ".aiff", ".aifc"),
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one file after it was decoded whole.

    trouble       why it cannot be used, with the ``sentence`` that says so; "" for a usable file
    form          format by content, "PNG" or "FLAC"
    mode          a picture's colour mode as stored, "CMYK" for instance
    width, height pixels as stored, before ``orientation`` (EXIF, 1 to 8) turns them
    moving        a picture of several frames, of which the first is taken
    blank         a picture of one colour
    rate          samples per second; ``channels``; ``frames`` per channel
    peak          largest magnitude, from 0 to 1
    clipped       samples in runs of at least three at full scale
    shape         `BINS` magnitudes from 0 to 255 along a sound, to draw it
    """

    trouble: Trouble = ""
    sentence: str = ""
    form: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    moving: bool = False
    blank: bool = False
    rate: int = 0
    channels: int = 0
    frames: int = 0
    peak: float = 0.0
    clipped: int = 0
    shape: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """How long a sound lasts; 0 for a picture."""
        return self.frames / self.rate if self.rate else 0.0


def suffixes(form: str) -> tuple[str, ...]:
    """Return the file name endings that are right for a format, the usual one first."""
    return _SUFFIXES.get(form, ())


def absent(path: Path, picture: bool) -> Facts | None:
    """Return the fault of what is not a file with bytes in it, without reading it; None for a file."""
    trouble: Trouble = "missing"
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)
        if regular and status.st_size:
            return None
        trouble = "empty_file" if regular else "not_a_file"
    except (OSError, ValueError):
        pass
    return Facts(trouble=trouble, sentence=_sentence(path, picture))


def facts(path: Path, picture: bool) -> Facts:
    """Return what ``path`` is as a picture or as a sound; every fault is told, none is raised."""
    fault = absent(path, picture)
    if fault is not None:
        return fault
    try:
        head = _picture_head(path) if picture else _sound_head(path)
        return _picture(path, head) if picture else _sound(path, head)
    except MediaError as error:
        return Facts(trouble=_trouble(path, picture), sentence=str(error))


def _sentence(path: Path, picture: bool) -> str:
    try:
        load_image(path) if picture else read_sound(path)
    except MediaError as error:
        return str(error)
    return f"'{path}' changed while it was read"


def _trouble(path: Path, picture: bool) -> Trouble:
    """Return which kind of fault it is that a file does not decode for."""
    what = "picture" if picture else "sound"
    try:
        kind = media.kind_of(path)
        if what not in kind and not (kind == "an OGG file" and not picture):
            return "wrong_type"
        return "bomb" if _too_large(path, picture) else "truncated"
    except OSError:
        return "missing"


def _too_large(path: Path, picture: bool) -> bool:
    """Say whether the header of a file claims more than is ever decoded."""
    try:
        if picture:
            head = _picture_head(path)
            return bool(head.get("bomb")) or head.get("width", 0) * head.get("height", 0) > media.MAX_PIXELS
        head = _sound_head(path)
        return bool(head.get("frames", 0) > media.MAX_FRAMES or head.get("channels", 0) > media.MAX_CHANNELS)
    except Exception:  # a header that cannot be read claims nothing
        return False


def _picture_head(path: Path) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
            form = "JPEG" if picture.format == "MPO" else picture.format or ""
            head = {"form": form, "mode": picture.mode, "width": width, "height": height}
            if width * height <= media.MAX_PIXELS:
                head["orientation"] = int(picture.getexif().get(_ORIENTATION, 1))
                # A camera's JPEG may hold a second view (MPO); that is no animation.
                many = bool(getattr(picture, "is_animated", False))
                head["moving"] = many and picture.format in ("GIF", "PNG", "WEBP", "TIFF")
            return head
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return {"bomb": True}
    except Exception:  # PIL raises nearly anything on damaged bytes; decoding them says it in a sentence
        return {}


def _picture(path: Path, head: dict[str, Any]) -> Facts:
    pixels = load_image(path)
    blank = all(low == high for low, high in pixels.getextrema())  # type: ignore[misc]
    return Facts(blank=blank, **head)


def _sound_head(path: Path) -> dict[str, Any]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            return {
                "form": str(file.format),
                "rate": int(file.samplerate),
                "channels": int(file.channels),
                "frames": int(file.frames),
            }
    except (soundfile.LibsndfileError, TypeError):
        return {}


def _sound(path: Path, head: dict[str, Any]) -> Facts:
    samples, _ = read_sound(path)
    size = np.abs(samples)
    edges = np.linspace(0, len(size), BINS + 1).astype(int)[:-1]
    shape = np.maximum.reduceat(size, np.minimum(edges, len(size) - 1))
    return Facts(
        **{**head, "frames": len(samples)},
        peak=float(size.max()),
        clipped=_clipped(size),
        shape=tuple(int(value) for value in (shape * 255).astype(int)),
    )


def _clipped(size: Any) -> int:
    """Return how many samples stand in runs of at least three at full scale."""
    full = np.concatenate(([0], (size >= FULL).astype(np.int8), [0]))
    change = np.flatnonzero(np.diff(full))
    runs = change[1::2] - change[::2]
    return int(runs[runs >= _RUN].sum())


def thumbnail(path: Path, side: int = 112) -> bytes:
    """Return a small PNG of a picture as a model sees it, at most ``side`` pixels wide and high.

    Raises:
        MediaError: as `studio.media.load_image`.
    """
    picture = load_image(path)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sound_clip(path: Path, seconds: float) -> tuple[bytes, str]:
    """Return the first ``seconds`` of a sound as bytes that browsers play, mono, and their MIME type.

    Raises:
        MediaError: as `studio.media.read_sound`.
    """
    import soundfile

    samples, rate = read_sound(path)
    form, kind = ("MP3", "audio/mpeg") if rate in _MP3_RATES else ("WAV", "audio/wav")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples[: int(seconds * rate)], rate, format=form)
    return buffer.getvalue(), kind


def write_upright(source: Path, target: Path) -> None:
    """Write a picture again as plain RGB, upright, without metadata; ``target`` ends in .png or .jpg.

    Raises:
        MediaError: as `studio.media.load_image`.
    """
    picture = load_image(source)
    options = {".jpg": {"quality": 95, "subsampling": 0}}.get(target.suffix.lower(), {})
    picture.save(target, {".jpg": "JPEG", ".png": "PNG"}[target.suffix.lower()], **options)


def write_smaller(source: Path, target: Path, share: float) -> None:
    """Write a picture as PNG, whole or not at all, with ``share`` of its pixels, at least 28 on a side.

    Raises:
        MediaError: as `studio.media.load_image`.
    """
    from PIL import Image

    picture = load_image(source)
    width, height = (max(min(28, edge), round(edge * share**0.5)) for edge in picture.size)
    with atomic_file(target) as file:
        picture.resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")

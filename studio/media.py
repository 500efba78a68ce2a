"""Pictures and sounds from files: decoded whole and in one form, or refused with one sentence.

PIL decodes pictures and libsndfile (through soundfile) decodes sounds; torchaudio only changes the
rate, and is imported only then. Both decoders are lenient about some damage, so this module compares
what was read against what the file's own header promised.
"""

from __future__ import annotations

import os
import struct
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from studio.errors import MediaError
from studio.files import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

    Samples = NDArray[np.float32]

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SOUND_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF")
PICTURE_KINDS = ", ".join(PICTURE_FORMATS)
SOUND_KINDS = "WAV, FLAC, OGG, MP3, AIFF"
MAX_PIXELS = 64_000_000
"""Largest picture, in pixels: a small file may claim far more (a decompression bomb)."""
MAX_FRAMES = 3600 * 48_000
"""Longest sound, in frames per channel: one hour at 48 kHz."""
MAX_CHANNELS = 16
_BLOCK = 1 << 20
_UNKNOWN_LENGTH = 0xFFFFFFFF
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"fLaC", "a FLAC sound"),
    (b"OggS", "an OGG file"),
    (b"ID3", "an MP3 sound"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a GZIP archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
)


def load_image(path: Path | str) -> Picture:
    """Return the picture at ``path`` as RGB, upright as its EXIF orientation says.

    CMYK, grey, palette and 16-bit pictures are converted; transparency is laid on white; of an
    animation the first frame is taken.

    Raises:
        MediaError: missing, empty, truncated, not a picture, or more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    _require(path, "picture")
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise MediaError(_too_large(path, f"{width} x {height} pixels"))
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture), path)
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(_too_large(path, str(error).rstrip("."))) from None
    except UnidentifiedImageError:
        raise MediaError(_not(path, "picture", PICTURE_KINDS)) from None
    except MemoryError:
        raise MediaError(_too_large(path, "more memory than there is")) from None
    except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
        raise MediaError(f"picture '{path}' is truncated or damaged ({_reason(error)})") from None


def _rgb(picture: Picture, path: Path) -> Picture:
    from PIL import Image

    if picture.mode in ("I", "F"):
        raise MediaError(f"picture '{path}' stores 32 bits per pixel value; allowed: 8 or 16 bits")
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def load_sound(path: Path | str, rate: int) -> Samples:
    """Return the sound at ``path`` as float32 [T], mono in [-1, 1], at ``rate`` samples per second.

    Channels are averaged. The rate is changed by windowed-sinc interpolation (torchaudio) when it
    differs; T is then ``ceil(frames * rate / own rate)``.

    Raises:
        MediaError: missing, empty, truncated, not a sound, longer than `MAX_FRAMES` or with values
            that are not finite.
    """
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    samples, own = read_sound(path)
    if own == rate:
        return samples
    import torch
    from torchaudio.functional import resample

    step = gcd(own, rate)
    changed = resample(torch.from_numpy(samples), own // step, rate // step)
    return np.asarray(changed.clamp_(-1.0, 1.0).numpy(), dtype=np.float32)


def read_sound(path: Path | str) -> tuple[Samples, int]:
    """Return the sound at ``path`` as float32 mono [T] at its own rate, and that rate.

    Raises:
        MediaError: as `load_sound`.
    """
    import soundfile

    path = Path(path)
    _require(path, "sound")
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in SOUND_FORMATS:
                raise MediaError(f"sound '{path}' is {file.format}; allowed: {SOUND_KINDS}")
            if file.frames > MAX_FRAMES or file.channels > MAX_CHANNELS:
                raise MediaError(_too_large(path, f"{file.frames} frames in {file.channels} channels", False))
            samples = _mono(file)
            promised, rate, form = file.frames, int(file.samplerate), file.format
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: it asks how to read a '.raw'
        if "sound" in kind_of(path) or "OGG" in kind_of(path):
            raise MediaError(f"sound '{path}' is truncated or damaged ({_reason(error)})") from None
        raise MediaError(_not(path, "sound", SOUND_KINDS)) from None
    _require_whole(path, form, len(samples), promised)
    if not len(samples):
        raise MediaError(f"sound '{path}' holds no samples")
    if not np.isfinite(samples).all():
        raise MediaError(f"sound '{path}' holds values that are not finite")
    return np.clip(samples, -1.0, 1.0, out=samples), rate


def _mono(file: Any) -> Samples:
    """Read all frames in blocks, so that many channels never stand in memory at once."""
    blocks: list[Samples] = []
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32))
    if len(blocks) == 1:
        return np.ascontiguousarray(blocks[0])
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def save_picture(path: Path | str, pixels: Samples) -> Path:
    """Write ``pixels`` [H, W, 3] in [0, 255] in the format of the suffix, and return the path."""
    from PIL import Image

    Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)).save(path)
    return Path(path)


def save_image(path: Path | str, values: NDArray[np.uint8]) -> None:
    """Write a picture's values [H, W, 3] without loss; the suffix (.png, .bmp) is the format.

    The file appears whole or not at all.
    """
    from PIL import Image

    path = Path(path)
    with atomic_file(path) as file:
        Image.fromarray(values).save(file, format=path.suffix[1:])


def save_sound(path: Path | str, samples: Samples, rate: int) -> None:
    """Write mono ``samples`` [T] in [-1, 1] as 16-bit sound; the suffix (.wav, .flac, .ogg) is the format.

    The file appears whole or not at all.
    """
    import soundfile

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        soundfile.write(part, np.clip(samples, -1.0, 1.0), rate)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _require(path: Path, what: str) -> None:
    """Refuse what is not a readable file with bytes in it."""
    try:
        size = path.stat().st_size if path.is_file() else None
        if size:
            with open(path, "rb"):
                return
    except (OSError, ValueError) as error:
        raise MediaError(f"{what} '{path}' cannot be read ({_reason(error)})") from None
    if size == 0:
        raise MediaError(f"{what} '{path}' is empty (0 bytes)")
    raise MediaError(f"{what} '{path}' " + ("is not a file" if path.exists() else "does not exist"))


def _require_whole(path: Path, form: str, frames: int, promised: int) -> None:
    """Compare what was decoded with what the file says about itself."""
    if frames < promised:
        raise MediaError(f"sound '{path}' is truncated: {frames} of {promised} frames could be read")
    with open(path, "rb") as file:
        if form in ("WAV", "WAVEX"):
            missing = _missing_bytes(file, "<", b"data")
        elif form == "AIFF":
            missing = _missing_bytes(file, ">", b"SSND")
        else:
            missing = 0
        if missing:
            raise MediaError(f"sound '{path}' is truncated: the last {missing} bytes are missing")
        if form == "OGG" and not _ogg_ends(file):
            raise MediaError(f"sound '{path}' is truncated: its last OGG page is missing")


def _missing_bytes(file: BinaryIO, order: str, name: bytes) -> int:
    """Return how many bytes of the RIFF or IFF chunk ``name`` the file lacks (0: none)."""
    end = os.fstat(file.fileno()).st_size
    at = 12
    while at + 8 <= end:
        file.seek(at)
        tag, size = struct.unpack(f"{order}4sI", file.read(8))
        if tag == name:
            return 0 if size == _UNKNOWN_LENGTH else max(at + 8 + size - end, 0)
        at += 8 + size + size % 2
    return 0


def _ogg_ends(file: BinaryIO) -> bool:
    """Return whether the last OGG page is whole and marked as the end of its stream (RFC 3533, 6)."""
    end = os.fstat(file.fileno()).st_size
    file.seek(max(end - 65_307, 0))  # the longest page there can be
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return False
    sizes = tail[at + 27 : at + 27 + tail[at + 26]]
    whole = len(sizes) == tail[at + 26] and at + 27 + len(sizes) + sum(sizes) <= len(tail)
    return whole and bool(tail[at + 5] & 0x04)


def kind_of(path: Path) -> str:
    """Return what the first bytes of a file say it is."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"RIFF":
        return "a WEBP picture" if head[8:12] == b"WEBP" else "a WAV sound"
    if head[:4] == b"FORM":
        return "an AIFF sound"
    if (
        head[:1] == b"\xff"
        and len(head) > 1
        and head[1] & 0xE0 == 0xE0
        and head[1] != 0xFF
        and head[1] != 0xD8
    ):
        return "an MP3 sound"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return "text" if b"\0" not in head and head.isascii() else "of unknown format"


def _not(path: Path, what: str, allowed: str) -> str:
    kind = kind_of(path)
    if what in kind:
        return f"{what} '{path}' is truncated or damaged (its header cannot be read)"
    return f"{what} '{path}' is {kind}, not a {what}; allowed: {allowed}"


def _too_large(path: Path, what: str, picture: bool = True) -> str:
    if picture:
        return f"picture '{path}' is too large ({what}); allowed: at most {MAX_PIXELS} pixels"
    return f"sound '{path}' is too long ({what}); allowed: {MAX_FRAMES} frames in {MAX_CHANNELS} channels"


def _reason(error: Exception) -> str:
    """Return an error's text in one line, without the path that the sentence already names."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".") or type(error).__name__

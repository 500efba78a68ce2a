"""Pictures and sounds: one form whatever the file, and one sentence for whatever is broken."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio import media
from studio.errors import MediaError
from studio.media import load_image, load_sound, read_sound, save_sound

RATE = 16_000
SOUNDS = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "mp3": {},
    "aiff": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
PICTURES = {"png": {}, "jpg": {}, "webp": {}, "gif": {}, "bmp": {}, "tiff": {}}


def tone(seconds: float = 1.0, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    """A sine of amplitude 0.5, float32 [T]."""
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise_picture(width: int = 40, height: int = 30) -> Image.Image:
    """A picture that does not compress to nothing."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_tone(path: Path, suffix: str, seconds: float = 1.0) -> Path:
    """Write one second of tone in the format of ``suffix``."""
    soundfile.write(path, tone(seconds), RATE, **SOUNDS[suffix])
    return path


def cut(path: Path, size: int) -> Path:
    """Cut the last ``size`` bytes off a file."""
    path.write_bytes(path.read_bytes()[:-size])
    return path


@pytest.mark.parametrize("suffix", PICTURES)
def test_pictures_of_every_allowed_format_come_out_as_rgb(tmp_path: Path, suffix: str) -> None:
    noise_picture().save(tmp_path / f"a.{suffix}")
    picture = load_image(tmp_path / f"a.{suffix}")
    assert (picture.mode, picture.size) == ("RGB", (40, 30))


def test_cmyk_pictures_keep_their_colour(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    picture = load_image(tmp_path / "a.jpg")
    assert picture.mode == "RGB"
    np.testing.assert_allclose(picture.getpixel((8, 8)), (250, 10, 10), atol=6)  # JPEG rounding


def test_pictures_stand_upright_as_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "a.png", exif=exif)
    upright = load_image(tmp_path / "a.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 0, 0)
    assert upright.getpixel((10, 35)) == (255, 255, 255)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.save(tmp_path / "b.gif", transparency=0)
    assert load_image(tmp_path / "b.gif").getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


def test_pictures_with_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match=r"stores 32 bits.*allowed: 8 or 16"):
        load_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_truncated_pictures_are_errors(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise_picture().save(path)
    cut(path, max(int(path.stat().st_size * share), 30))
    with pytest.raises(MediaError, match=r"picture '.*a\..*(truncated|damaged|unknown format)"):
        load_image(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_pictures_decode_or_say_so(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]))
    buffer = io.BytesIO()
    noise_picture(12, 9).save(buffer, kind)
    damaged = bytearray(buffer.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.png"
    path.write_bytes(damaged)
    with suppress(MediaError):  # any other error fails the test
        assert load_image(path).mode == "RGB"


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (8_001, 12_000, 60_000):  # over our limit, over PIL's warning, over PIL's error
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(MediaError, match="too large"):
            load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("read", [load_image, read_sound])
def test_missing_empty_and_wrong_paths_are_named(tmp_path: Path, read) -> None:
    with pytest.raises(MediaError, match=r"'.*gone\.x' does not exist"):
        read(tmp_path / "gone.x")
    (tmp_path / "zero.x").touch()
    with pytest.raises(MediaError, match=r"zero\.x' is empty \(0 bytes\)"):
        read(tmp_path / "zero.x")
    with pytest.raises(MediaError, match="is not a file"):
        read(tmp_path)
    with pytest.raises(MediaError, match=r"cannot be read|does not exist"):
        read("zero\0byte")


def test_mislabelled_files_are_told_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not a picture at all\n")
    with pytest.raises(MediaError, match=r"note\.png' is text, not a picture; allowed: PNG, JPEG"):
        load_image(tmp_path / "note.png")
    noise_picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.wav")
    with pytest.raises(MediaError, match=r"a\.wav' is a PNG picture, not a sound; allowed: WAV, FLAC"):
        read_sound(tmp_path / "a.wav")
    write_tone(tmp_path / "b.wav", "wav").rename(tmp_path / "b.png")
    with pytest.raises(MediaError, match=r"b\.png' is a WAV sound, not a picture"):
        load_image(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", SOUNDS)
def test_sounds_of_every_allowed_format_come_out_whole(tmp_path: Path, suffix: str) -> None:
    sound = load_sound(write_tone(tmp_path / f"a.{suffix}", suffix), RATE)
    assert (sound.dtype, sound.shape) == (np.float32, (RATE,))
    # lossy codecs may shift by a frame; the level must stay that of a sine of amplitude 0.5
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_stereo_is_averaged_and_44_1_khz_is_resampled(tmp_path: Path) -> None:
    left = tone(rate=44_100)
    soundfile.write(
        tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 44_100, subtype="FLOAT"
    )
    sound = load_sound(tmp_path / "a.wav", RATE)
    assert sound.shape == (RATE,)
    # away from the ends, windowed-sinc resampling is that close to the sine itself
    np.testing.assert_allclose(sound[200:-200], 0.5 * tone()[200:-200], atol=2e-3)


def test_values_stay_within_one_and_non_finite_ones_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 3 * tone(), RATE, subtype="FLOAT")
    assert np.abs(load_sound(tmp_path / "loud.wav", RATE)).max() == 1.0
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match="not finite"):
        load_sound(tmp_path / "nan.wav", RATE)


@pytest.mark.parametrize("suffix", SOUNDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_truncated_sounds_are_errors(tmp_path: Path, suffix: str, share: float) -> None:
    path = write_tone(tmp_path / f"a.{suffix}", suffix, seconds=3)
    cut(path, max(int(path.stat().st_size * share), 1))
    with pytest.raises(MediaError, match="truncated"):
        read_sound(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "opus"])
def test_one_missing_byte_is_found_in_a_sound(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(MediaError, match="truncated"):
        read_sound(cut(write_tone(tmp_path / f"a.{suffix}", suffix), 1))


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", "wav")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data")
    raw[4:8] = raw[at + 4 : at + 8] = b"\xff\xff\xff\xff"  # as programs write that stream into a pipe
    path.write_bytes(raw)
    assert read_sound(path)[0].shape == (RATE,)


def test_sounds_without_samples_or_of_rare_formats_or_too_long_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(MediaError, match="holds no samples"):
        read_sound(tmp_path / "none.wav")
    (tmp_path / "a.raw").write_bytes(bytes(64))
    with pytest.raises(MediaError, match="not a sound; allowed"):
        read_sound(tmp_path / "a.raw")
    soundfile.write(tmp_path / "a.au", tone(), RATE)
    with pytest.raises(MediaError, match="is AU; allowed: WAV, FLAC, OGG, MP3, AIFF"):
        read_sound(tmp_path / "a.au")
    monkeypatch.setattr(media, "MAX_FRAMES", 100)
    with pytest.raises(MediaError, match="too long"):
        read_sound(write_tone(tmp_path / "long.wav", "wav"))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_sounds_decode_or_say_so(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.wav"
    write_tone(path, data.draw(st.sampled_from(["wav", "flac", "ogg", "aiff"])), seconds=0.02)
    damaged = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with suppress(MediaError):  # any other error fails the test
        assert np.abs(read_sound(path)[0]).max() <= 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_saved_sound_reads_back(tmp_path: Path, suffix: str) -> None:
    save_sound(tmp_path / "deep" / f"a.{suffix}", tone(), RATE)
    back = load_sound(tmp_path / "deep" / f"a.{suffix}", RATE)
    assert back.shape == (RATE,)
    if suffix != "ogg":  # 16 bits: half a step of rounding each way
        np.testing.assert_allclose(back, tone(), atol=1 / 32768)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [f"a.{suffix}"]


def test_a_failed_save_leaves_the_old_sound(tmp_path: Path) -> None:
    save_sound(tmp_path / "a.wav", tone(), RATE)
    with pytest.raises(soundfile.LibsndfileError):
        save_sound(tmp_path / "a.wav", tone(), -1)
    np.testing.assert_allclose(load_sound(tmp_path / "a.wav", RATE), tone(), atol=1 / 32768)
    assert len(list(tmp_path.iterdir())) == 1

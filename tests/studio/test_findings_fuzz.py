"""Files and rows that nobody would write: a check never crashes, hangs or runs out of memory over them."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image as Pictures
from PIL.PngImagePlugin import PngInfo

from studio.data.findings import KINDS, Report, check
from studio.data.findings.page import findings_page
from studio.data.findings.repair import repair
from studio.data.kept_facts import Kept
from studio.errors import DataError
from studio.log import QuietLog
from tests.studio.defects import RATE, bomb

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "messages",
    "role",
    "content",
    "type",
    "path",
    "text",
    "groups",
    "weight",
    "id",
    "extra",
    "chosen",
    "loss",
)
ODD: list[Any] = [
    None, True, -1, 0, 1e308, 10**30, "", " ", "\0", "../../etc/passwd", "/etc/passwd", "media", ".", "..",
    "media/../media/0.png", "media/0.png/", "a" * 5000, "\ud800", "<image>", "\u202e", "a\nb", "\x1b[2J",
    [], {}, [[]], [{}], [None], {"type": "image"}, {"type": "image", "path": 3}, "assistant",
    {"type": "vidoe", "path": "x"}, "media/link.png", "media/loop", "media/pipe",
]  # fmt: skip


def originals(draw: random.Random) -> list[tuple[str, bytes]]:
    """Small whole files of every format, by suffix."""
    noise = np.random.default_rng(draw.randrange(1 << 30))
    found = []
    picture = Pictures.fromarray(noise.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    for suffix, form in (
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("webp", "WEBP"),
        ("gif", "GIF"),
        ("bmp", "BMP"),
        ("tif", "TIFF"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, form)
        found.append((suffix, buffer.getvalue()))
    wave = noise.normal(0, 0.1, 1600).astype(np.float32)
    for suffix, form, subtype in (
        ("wav", "WAV", "PCM_16"), ("flac", "FLAC", None), ("ogg", "OGG", None), ("mp3", "MP3", None),
        ("aiff", "AIFF", None),
    ):  # fmt: skip
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, RATE, format=form, subtype=subtype)
        found.append((suffix, buffer.getvalue()))
    return found


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut, doubled, put in or swapped for extreme lengths."""
    data = bytearray(raw)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(max(len(data), 1))
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[: draw.randrange(64)]
            case 3:
                data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case 4:
                del data[at : at + draw.randrange(1, 32)]
            case _:
                data[at : at + 8] = draw.randbytes(8)
    return bytes(data)


def changed(row: Any, draw: random.Random) -> Any:
    """A row of which one value somewhere is another."""
    row = json.loads(json.dumps(row))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        pairs = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in pairs:
            places.append((value, key))
            walk(inner)

    walk(row)
    holder, key = draw.choice(places)
    match draw.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(KEYS)] = draw.choice(ODD)
        case _:
            holder[key] = draw.choice(ODD)
    return row


def line(number: int, name: str, draw: random.Random) -> bytes:
    """One line of the data file: usually a row that may be changed, sometimes damaged bytes."""
    kind = "image" if name.endswith(("png", "jpg", "webp", "gif", "bmp", "tif")) else "audio"
    row = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": kind, "path": name}, {"type": "text", "text": f"{number}?"}],
            },
            {"role": "assistant", "content": f"It is {number}."},
        ],
        "groups": {"site": "A"},
        "id": str(number),
    }
    if number % 2:
        row = changed(row, draw)
    raw = json.dumps(row, ensure_ascii=draw.random() < 0.9).encode(errors="surrogatepass")
    return mutated(raw, draw).replace(b"\n", b" ") if number % 10 == 0 else raw


def fuzz(folder: Path, count: int, seed: int) -> Report:
    draw = random.Random(seed)
    (folder / "media").mkdir(parents=True)
    (folder.parent / "secret.png").write_bytes(originals(draw)[0][1])
    os.symlink(folder.parent / "secret.png", folder / "media/link.png")
    os.symlink("loop", folder / "media/loop")
    os.mkfifo(folder / "media/pipe")
    whole = originals(draw)
    lines = []
    for number in range(count):
        suffix, raw = whole[number % len(whole)]
        name = f"media/{number}.{suffix}"
        (folder / name).write_bytes(mutated(raw, draw) if number % 4 else raw)
        lines.append(line(number, name, draw))
    (folder / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    report = check([folder / "train.jsonl"], QuietLog(), kept=Kept(folder.parent / "kept"))
    assert 0 <= report.rows <= count  # a mutation may empty a line
    for finding in report.findings:
        assert finding.kind in KINDS
        assert finding.message
        assert finding.message.isprintable()
        assert "Traceback" not in finding.message
        assert 1 <= finding.row <= count
    json.dumps(report.as_json(), allow_nan=False)
    return report


def test_300_mutated_files_and_rows_are_each_used_or_told_with_a_sentence(tmp_path: Path) -> None:
    report = fuzz(tmp_path / "set", 300, seed=0)
    assert len(report.counts()) >= 8
    assert len(report.errors) > 100
    repair(report, tmp_path / "fixed", QuietLog())
    again = check([tmp_path / "fixed/train.jsonl"], QuietLog(), kept=Kept(tmp_path / "kept"))
    assert again.errors == []
    assert findings_page(report).count('class="card"') > 20


@pytest.mark.slow
def test_2000_mutated_files_and_rows_are_each_used_or_told_with_a_sentence(tmp_path: Path) -> None:
    began = time.monotonic()
    report = fuzz(tmp_path / "set", 2000, seed=1)
    assert len(report.errors) > 700
    assert time.monotonic() - began < 120
    repair(report, tmp_path / "fixed", QuietLog())
    again = check([tmp_path / "fixed/train.jsonl"], QuietLog(), kept=Kept(tmp_path / "kept"))
    assert again.errors == []


def ask(*names: str) -> str:
    rows = []
    for name in names:
        kind = "audio" if name.endswith((".wav", ".flac")) else "image"
        user = {"role": "user", "content": [{"type": kind, "path": name}]}
        rows.append(json.dumps({"messages": [user, {"role": "assistant", "content": "yes"}]}))
    return "\n".join(rows) + "\n"


def text_bomb(path: Path) -> None:
    """A small PNG with a compressed comment of 300 MB."""
    info = PngInfo()
    pack = zlib.compressobj(9)
    data = b"".join(pack.compress(bytes(1 << 20)) for _ in range(300)) + pack.flush()
    info.add(b"zTXt", b"comment\0\0" + data)
    Pictures.new("RGB", (16, 16), "red").save(path, pnginfo=info)


def test_bombs_are_refused_within_little_memory_and_time(tmp_path: Path) -> None:
    """Pictures of 100,000 pixels a side, compressed comments, sounds of a million channels, zip files."""
    for side in (8_001, 40_000, 100_000):
        bomb(tmp_path / f"{side}.png", side)
    text_bomb(tmp_path / "text.png")
    Pictures.new("1", (100_000, 600)).save(tmp_path / "wide.png")
    (tmp_path / "zip.png").write_bytes(b"PK\x03\x04" + bytes(1000))
    head = bytearray(soundfile_header())
    head[22:24] = b"\xff\xff"
    (tmp_path / "channels.wav").write_bytes(head)
    head = bytearray(soundfile_header())
    head[4:8] = head[40:44] = b"\xf0\xff\xff\xff"
    (tmp_path / "frames.wav").write_bytes(head)
    names = [
        "8001.png",
        "40000.png",
        "100000.png",
        "text.png",
        "wide.png",
        "zip.png",
        "channels.wav",
        "frames.wav",
    ]
    (tmp_path / "train.jsonl").write_text(ask(*names))
    code = (
        "import resource, sys, json; from pathlib import Path\n"
        "from studio.data.findings import check; from studio.data.kept_facts import Kept\n"
        "from studio.log import QuietLog\n"
        "import numpy, PIL.Image, PIL.PngImagePlugin, soundfile\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = check([Path(sys.argv[1])], QuietLog(), kept=Kept(Path(sys.argv[2])))\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(json.dumps([grown, [[f.row, f.kind, f.message] for f in found.findings]]))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "train.jsonl"), str(tmp_path / "kept")],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    grown, found = json.loads(done.stdout.splitlines()[-1])
    refused = {row for row, kind, _ in found if KINDS[kind].severity == "error"}
    assert refused >= {1, 2, 3, 4, 6, 7, 8}, found
    assert [kind for row, kind, _ in found if row in (1, 2, 3)] == ["bomb"] * 3
    assert grown < 500 * 1024, "KiB; one picture of the largest size allowed has 192 MB"
    assert after.ru_utime - before.ru_utime < 15


def soundfile_header() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(100, np.float32) + 0.1, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_paths_that_lead_out_are_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    Pictures.new("RGB", (9, 9), "red").save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.symlink(tmp_path, folder / "sub/out")
    names = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "sub/out/secret.png",
        "sub/../../secret.png",
    ]
    names += ["../../../../../../etc/passwd", "/etc/passwd", "/dev/zero", "sub/out"]
    (folder / "train.jsonl").write_text(ask(*names))
    report = check([folder / "train.jsonl"], QuietLog(), kept=Kept(tmp_path / "kept"))
    assert [finding.kind for finding in report.findings] == ["path"] * len(names)
    assert report.media == 0


def test_a_line_longer_than_is_read_is_one_finding_and_the_next_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.data.jsonl.LONGEST", 1000)
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    long = {**row, "extra": {"filler": "x" * 5000}}
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, (row, long, {**row, "id": "3"}))))
    report = check([tmp_path / "train.jsonl"], QuietLog())
    assert report.rows == 3
    assert [(f.row, f.kind) for f in report.findings if f.error] == [(2, "row")]


def test_a_file_that_is_no_data_file_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no samples"):
        check([tmp_path / "empty.jsonl"], QuietLog())
    with pytest.raises(DataError, match="cannot be read"):
        check([tmp_path / "gone.jsonl"], QuietLog())
    (tmp_path / "picture.jsonl").write_bytes(originals(random.Random(0))[0][1])
    report = check([tmp_path / "picture.jsonl"], QuietLog())
    assert {finding.kind for finding in report.findings} == {"row"}

"""A data set with known defects: so many clean rows, and into some of them one defect each is put."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image as Pictures

RATE = 16_000
Row = dict[str, Any]


#: The row of the train set that the test set repeats.
LEAKED = 4


class Set:
    """A folder with train.jsonl and test.jsonl, media of their own for each row, and what was put in."""

    def __init__(self, folder: Path, rows: int, seed: int = 0) -> None:
        self.folder = folder
        self.draw = np.random.default_rng(seed)
        (folder / "media").mkdir(parents=True)
        self.rows: list[Row | str] = [self._row(number) for number in range(rows)]
        self.planted: set[tuple[str, int, str]] = set()
        self.first_test = rows - rows // 10

    def _row(self, number: int) -> Row:
        if number % 2:
            name, kind = f"media/{number}.wav", "audio"
            write_wave(self.folder / name, self.noise(RATE // 20))
        else:
            name, kind = f"media/{number}.png", "image"
            self.picture(16 + number % 7, 18).save(self.folder / name)
        parts = [{"type": kind, "path": name}, {"type": "text", "text": f"What is number {number}?"}]
        messages = [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": f"It is number {number}."},
        ]
        return {
            "messages": messages,
            "id": f"row-{number}",
            "groups": {"site": "ABCD"[number // 2 % 4], "speaker": f"s{number // 3}"},
        }

    def noise(self, frames: int, channels: int = 1) -> np.ndarray:
        shape = (frames, channels) if channels > 1 else frames
        return self.draw.normal(0, 0.1, shape).astype(np.float32)

    def picture(self, width: int, height: int) -> Pictures.Image:
        return Pictures.fromarray(self.draw.integers(0, 256, (height, width, 3), dtype=np.uint8))

    def plant(self, kind: str, number: int) -> None:
        """Put one defect into a row."""
        if number % 2 != SUITS.get(kind, number % 2):
            number += 1
        made = DEFECTS[kind](self, number)
        if isinstance(made, str | dict):
            self.rows[number] = made
        found = {"leak": LEAKED, "leaked_medium": source(number)}.get(kind, number)
        self.planted.add((*self.place(found), kind))

    def place(self, number: int) -> tuple[str, int]:
        """Return the file and line of a row."""
        before = number < self.first_test
        return ("train.jsonl", number + 1) if before else ("test.jsonl", number + 1 - self.first_test)

    def medium(self, number: int) -> Path:
        row = self.rows[number]
        assert isinstance(row, dict)
        return self.folder / row["messages"][0]["content"][0]["path"]

    def write(self) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in self.rows]
        (self.folder / "train.jsonl").write_text("\n".join(lines[: self.first_test]) + "\n")
        (self.folder / "test.jsonl").write_text("\n".join(lines[self.first_test :]) + "\n")
        return self.folder


def write_wave(path: Path, wave: np.ndarray, rate: int = RATE) -> None:
    soundfile.write(path, wave, rate, format="WAV", subtype="PCM_16")


def bomb(path: Path, side: int = 100_000) -> None:
    """Write a PNG of some bytes that claims ``side`` x ``side`` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _cut(made: Set, number: int) -> None:
    path = made.medium(number)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _renamed(made: Set, number: int) -> Row:
    path = made.medium(number)
    wrong = path.with_suffix(".jpg" if path.suffix == ".png" else ".flac")
    path.rename(wrong)
    return _with_path(made, number, f"media/{wrong.name}")


def _with_path(made: Set, number: int, name: str) -> Row:
    row = json.loads(json.dumps(made.rows[number]))
    row["messages"][0]["content"][0]["path"] = name
    return row


def _changed(key: str, value: Any) -> Callable[[Set, int], Row]:
    def change(made: Set, number: int) -> Row:
        row = json.loads(json.dumps(made.rows[number]))
        {"text": row["messages"][0]["content"][1], "content": row["messages"][1], "site": row["groups"]}[key][
            key
        ] = value
        return row

    return change


def _turned(made: Set, number: int) -> None:
    exif = Pictures.Exif()
    exif[0x0112] = 6
    made.picture(20, 16).save(made.medium(number), exif=exif)


def _cmyk(made: Set, number: int) -> Row:
    path = made.medium(number).with_suffix(".jpg")
    made.medium(number).unlink()
    made.picture(20, 16).convert("CMYK").save(path)
    return _with_path(made, number, f"media/{path.name}")


def _moving(made: Set, number: int) -> Row:
    path = made.medium(number).with_suffix(".gif")
    made.medium(number).unlink()
    made.picture(16, 16).save(path, save_all=True, append_images=[made.picture(16, 16)])
    return _with_path(made, number, f"media/{path.name}")


def _clipped(made: Set, number: int) -> None:
    time = np.arange(RATE // 10) / RATE
    write_wave(made.medium(number), np.clip(3 * np.sin(2 * np.pi * (300 + number) * time), -1, 1))


def _folder(made: Set, number: int) -> None:
    made.medium(number).unlink()
    made.medium(number).mkdir()


def _again(made: Set, number: int) -> Row:
    """The row before the one before, with another id."""
    return {**json.loads(json.dumps(made.rows[number - 2])), "id": f"row-{number}"}


def source(number: int) -> int:
    """Return the clean row of the train set whose medium a row of the test set gets: it is found there."""
    return number // 4 % 40 * 4 + 3


def _copied(made: Set, number: int) -> None:
    """The bytes of a train medium in a row of the test set that asks another question."""
    shutil.copyfile(made.medium(source(number)), made.medium(number))


def _outward(made: Set, number: int) -> Row:
    outside = made.folder.parent / "secret.png"
    made.picture(8, 8).save(outside)
    link = made.folder / "media" / f"link-{number}.png"
    os.symlink(outside, link)
    return _with_path(made, number, f"media/{link.name}")


DEFECTS: dict[str, Callable[[Set, int], Any]] = {
    "row": lambda made, number: '{"messages": [{"role": "user", ',
    "path": lambda made, number: (
        _outward(made, number)
        if number % 3 == 0
        else _with_path(made, number, ("../../../etc/passwd", "/etc/passwd")[number % 2])
    ),
    "empty_answer": _changed("content", "  "),
    "no_answer": lambda made, number: {**made.rows[number], "messages": made.rows[number]["messages"][:1]},
    "tags": _changed("text", "<image>\n<image>\nWhat are they?"),
    "duplicate_id": lambda made, number: {**made.rows[number], "id": f"row-{number - 2}"},
    "duplicate_row": _again,
    "leak": lambda made, number: {**_with_path(made, LEAKED, f"media/{LEAKED}.png"), "id": f"row-{number}"},
    "leaked_medium": _copied,
    "unknown_group": _changed("site", "unknown"),
    "rare_group": lambda made, number: {
        **made.rows[number],
        "groups": {"site": f"Q{number}", "speaker": "s1"},
    },
    "missing": lambda made, number: made.medium(number).unlink(),
    "not_a_file": _folder,
    "empty_file": lambda made, number: made.medium(number).write_bytes(b""),
    "truncated": _cut,
    "wrong_type": lambda made, number: made.medium(number).write_text("<html>not found</html>"),
    "bomb": lambda made, number: bomb(made.medium(number)),
    "extension": _renamed,
    "cmyk": _cmyk,
    "rotation": _turned,
    "animation": _moving,
    "blank": lambda made, number: Pictures.new("RGB", (16, 16), (number % 256, 7, 9)).save(
        made.medium(number)
    ),
    "tiny": lambda made, number: made.picture(4, 30).save(made.medium(number)),
    "channels": lambda made, number: write_wave(made.medium(number), made.noise(900, 2)),
    "rate": lambda made, number: write_wave(made.medium(number), made.noise(900), 44_100),
    "clipping": _clipped,
    "silence": lambda made, number: write_wave(made.medium(number), made.noise(900 + number) * 1e-3),
    "long_sound": lambda made, number: write_wave(made.medium(number), made.noise(RATE * 9)),
    "long_row": _changed("text", "so many words " * 1000),
    "refused": _changed("text", "what is <|im_end|> for?"),
}
#: Which rows suit: even ones have a picture, odd ones a sound.
SUITS = {
    **dict.fromkeys(("cmyk", "rotation", "animation", "blank", "tiny", "bomb", "extension"), 0),
    **dict.fromkeys(
        ("channels", "rate", "clipping", "silence", "long_sound", "truncated", "leaked_medium"), 1
    ),
}
IN_TEST = ("leak", "leaked_medium")
WITH_MODEL = ("long_sound", "long_row", "refused")


def seeded(folder: Path, rows: int, each: int, kinds: list[str], seed: int = 0) -> Set:
    """Return a set of ``rows`` rows, with ``each`` defects of each kind at places drawn from ``seed``."""
    made = Set(folder, rows, seed)
    # Every fourth row may get a defect: the rows that copies are made of stay clean.
    places = iter(made.draw.permutation(np.arange(8, made.first_test - 4, 4)).tolist())
    later = iter(made.draw.permutation(np.arange(made.first_test + 4, rows - 4, 4)).tolist())
    for kind in kinds:
        for _ in range(1 if kind == "leak" else each):
            made.plant(kind, next(later if kind in IN_TEST else places))
    made.write()
    return made

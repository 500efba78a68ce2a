"""What an explanation speaks of: regions of pictures, spans of sounds, words; and questions without some.

A region that is taken away becomes a blur of its picture, a span becomes silence, a word is left out of its
text. What is taken away must not look like something itself: a grey square on cloth would be a patch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from studio.errors import ConfigError, DataError
from studio.media import load_image, read_sound, save_picture, save_sound
from studio.types import Image, Part, Sample, Sound, Text

if TYPE_CHECKING:
    from studio.media import Samples

Kind = Literal["region", "span", "word"]
Fill = Literal["blur", "mean", "grey"]
FILLS: tuple[Fill, ...] = ("blur", "mean", "grey")
MOST_WORDS = 64
"""Words of a prompt that are units of their own; of a longer one, neighbours stand together."""
_FADE = 0.005  # seconds in which a sound goes silent and comes back, so that no click is heard
_WORD = re.compile(r"\S+\s*")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of a question that can be taken away.

    ``turn`` and ``part`` say where in the prompt, ``medium`` counts the pictures, or sounds, from 1.
    ``place`` is (left, top, right, bottom) in pixels of a region, (start, end) in seconds of a span, or in
    characters of a word's text; ``cell`` is a region's (row, column) and the grid's (rows, columns).
    """

    kind: Kind
    turn: int
    part: int
    medium: int = 1
    place: tuple[float, ...]
    text: str = ""
    cell: tuple[int, int, int, int] = (0, 0, 1, 1)

    @property
    def name(self) -> str:
        """How a sentence calls it."""
        if self.kind == "word":
            word = self.text.strip(".,;:!?") or self.text
            return f"\N{LEFT DOUBLE QUOTATION MARK}{word}\N{RIGHT DOUBLE QUOTATION MARK}"
        if self.kind == "span":
            return f"{self.place[0]:.2f}-{self.place[1]:.2f} s"
        return f"row {self.cell[0] + 1}, column {self.cell[1] + 1}"


def cut(sample: Sample, *, grid: int = 6, spans: int = 12, words: bool = True) -> list[Unit]:
    """Return the units of a sample's prompt, in order of appearance.

    Args:
        sample: what was asked.
        grid: rows and columns that a picture's longer side is cut into (0: pictures stay whole and stand).
        spans: spans of equal length that a sound is cut into (0: sounds stand).
        words: whether the words of what the user wrote are units.

    Raises:
        ConfigError: a number out of range.
        DataError: nothing is left to take away.
        MediaError: a picture or sound that cannot be read.
    """
    for name, value, most in (("grid", grid, 32), ("spans", spans, 200)):
        if not 0 <= value <= most:
            raise ConfigError(f"{name} is {value}; allowed: 0 to {most}")
    units: list[Unit] = []
    pictures = sounds = 0
    for turn, said in enumerate(sample.prompt):
        for at, part in enumerate(said.parts):
            if isinstance(part, Image):
                pictures += 1
                units += _regions(part, turn, at, pictures, grid) if grid else []
            elif isinstance(part, Sound):
                sounds += 1
                units += _spans(part, turn, at, sounds, spans) if spans else []
            elif words and said.role == "user":
                units += _words(part, turn, at)
    if not units:
        raise DataError(f"{sample.where}: no picture, sound or word may be taken away, so nothing explains")
    return units


def _regions(part: Image, turn: int, at: int, medium: int, grid: int) -> list[Unit]:
    width, height = load_image(part.path).size
    side = max(width, height) / grid
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    ys = [round(height * n / rows) for n in range(rows + 1)]
    xs = [round(width * n / columns) for n in range(columns + 1)]
    return [
        Unit(
            kind="region", turn=turn, part=at, medium=medium,
            place=(xs[x], ys[y], xs[x + 1], ys[y + 1]), cell=(y, x, rows, columns),
        )
        for y in range(rows)
        for x in range(columns)
        if xs[x] < xs[x + 1] and ys[y] < ys[y + 1]
    ]  # fmt: skip


def _spans(part: Sound, turn: int, at: int, medium: int, spans: int) -> list[Unit]:
    wave, rate = read_sound(part.path)
    ends = [len(wave) / rate * n / spans for n in range(spans + 1)]
    return [
        Unit(kind="span", turn=turn, part=at, medium=medium, place=(ends[n], ends[n + 1]))
        for n in range(spans)
    ]


def _words(part: Text, turn: int, at: int) -> list[Unit]:
    found = [match.span() for match in _WORD.finditer(part.text)]
    size = max(1, ceil(len(found) / MOST_WORDS))
    groups = [found[n : n + size] for n in range(0, len(found), size)]
    places = [(group[0][0], group[-1][1]) for group in groups]
    return [
        Unit(kind="word", turn=turn, part=at, place=place, text=part.text[slice(*place)].strip())
        for place in places
    ]


class Eraser:
    """Makes a sample without some of its units; the media that this takes are written into ``folder``."""

    def __init__(self, sample: Sample, units: Sequence[Unit], folder: Path, *, fill: Fill = "blur") -> None:
        """Read the media once; ``fill`` is what stands where a region was."""
        if fill not in FILLS:
            raise ConfigError(f"fill is '{fill}'; allowed: {', '.join(FILLS)}")
        self._sample, self._units, self._folder = sample, list(units), folder
        self._number = 0
        self._pictures: dict[Path, tuple[Samples, Samples]] = {}
        self._sounds: dict[Path, tuple[Samples, int]] = {}
        for unit in units:
            part = sample.prompt[unit.turn].parts[unit.part]
            if isinstance(part, Image) and part.path not in self._pictures:
                pixels = np.asarray(load_image(part.path), np.float32)
                self._pictures[part.path] = pixels, filling(pixels, fill)
            elif isinstance(part, Sound) and part.path not in self._sounds:
                self._sounds[part.path] = read_sound(part.path)

    def without(self, gone: Sequence[bool]) -> Sample:
        """Return the sample's prompt without the units that are ``gone``; the sample itself if none is."""
        if not any(gone):
            return self._sample
        by_part: dict[tuple[int, int], list[Unit]] = {}
        for unit, away in zip(self._units, gone, strict=True):
            if away:
                by_part.setdefault((unit.turn, unit.part), []).append(unit)
        turns = []
        for at, turn in enumerate(self._sample.prompt):
            parts = [
                self._less(part, by_part[at, place]) if (at, place) in by_part else part
                for place, part in enumerate(turn.parts)
            ]
            turns.append(replace(turn, parts=tuple(parts)))
        return replace(self._sample, turns=tuple(turns))

    def sweep(self) -> None:
        """Delete the media that were written so far."""
        for file in self._folder.glob("erased-*"):
            file.unlink()

    def _less(self, part: Part, gone: Sequence[Unit]) -> Part:
        if isinstance(part, Text):
            text = part.text
            for unit in sorted(gone, key=lambda unit: -unit.place[0]):
                text = text[: int(unit.place[0])] + text[int(unit.place[1]) :]
            return replace(part, text=text)
        self._number += 1
        file = self._folder / f"erased-{self._number}"
        if isinstance(part, Image):
            pixels, behind = self._pictures[part.path]
            made = pixels.copy()
            for unit in gone:
                left, top, right, bottom = map(int, unit.place)
                made[top:bottom, left:right] = behind[top:bottom, left:right]
            return replace(part, path=save_picture(file.with_suffix(".bmp"), made))
        wave, rate = self._sounds[part.path]
        save_sound(file.with_suffix(".wav"), wave * _audible(len(wave), rate, gone), rate)
        return replace(part, path=file.with_suffix(".wav"))


def _audible(length: int, rate: int, gone: Sequence[Unit]) -> Samples:
    """Return what the samples [T] are multiplied by: 0 in the spans that are gone, with soft edges."""
    heard = np.ones(length, np.float32)
    for unit in gone:
        heard[round(unit.place[0] * rate) : round(unit.place[1] * rate)] = 0
    fade = max(1, int(_FADE * rate))
    if length > 2 * fade and heard.any():
        padded = np.pad(heard, fade, mode="edge")
        soft = np.convolve(padded, np.ones(2 * fade + 1, np.float32) / (2 * fade + 1), "valid")
        heard = np.minimum(heard, soft.astype(np.float32))
    return heard


def filling(pixels: Samples, fill: Fill) -> Samples:
    """Return what stands where a region of ``pixels`` [H, W, 3] is taken away: a picture of the same size."""
    if fill == "grey":
        return np.full_like(pixels, 127.5)
    if fill == "mean":
        return np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape).copy()
    # Three box blurs are nearly a Gaussian one, whose details are gone at a sixth of the longer side.
    radius = max(1, max(pixels.shape[:2]) // 6)
    for _ in range(3):
        for axis in (0, 1):
            pixels = _box(pixels, min(radius, pixels.shape[axis] - 1), axis)
    return pixels


def _box(pixels: Samples, radius: int, axis: int) -> Samples:
    """Return the running mean over ``2 radius + 1`` pixels along an axis, edges repeated."""
    if radius < 1:
        return pixels
    along = np.moveaxis(pixels, axis, 0)
    padded = np.pad(along, ((radius + 1, radius), *[(0, 0)] * (along.ndim - 1)), mode="edge")
    sums = np.cumsum(padded, axis=0, dtype=np.float64)
    wide = 2 * radius + 1
    means = (sums[wide:] - sums[:-wide]) / wide
    return np.moveaxis(means, 0, axis).astype(np.float32)

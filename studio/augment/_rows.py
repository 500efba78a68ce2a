"""Rows as they are in one epoch: their sounds, pictures and questions changed by the steps of a recipe.

Changed media are written into a folder and stand in the row by their new paths, so every family reads them as
it reads any other, with whatever processor it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.augment._settings import Draw
from studio.augment._steps import Step
from studio.media import load_image, load_sound, save_sound
from studio.training.seed import derive
from studio.types import Batch, Image, Part, Sample, Sound, Text, Turn

if TYPE_CHECKING:
    from torch import Tensor

#: The rate of sounds for a model that does not say what it hears.
RATE = 16_000


def draw_of(*place: int | str) -> Draw:
    """Return the random numbers of a place: seed, epoch, row, step and part."""
    return np.random.Generator(np.random.PCG64(derive(0, "augment", *place)))


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """Applies steps to the rows of one epoch.

    folder    where changed media are written, each under a name of its own
    rate      the samples per second that the model hears; 0 for one that does not hear
    seconds   the lengths of the sounds that were written, by path
    """

    steps: Sequence[Step]
    seed: int
    epoch: int
    folder: Path
    rate: int = RATE
    seconds: dict[Path, float] = field(default_factory=dict)

    def sample(self, sample: Sample, row: int) -> Sample:
        """Return row number ``row`` of the data as it is in this epoch; itself if no step changes it."""
        able = [(at, step) for at, step in enumerate(self.steps) if step.allowed(sample)]
        turns: list[Turn] = []
        before = after = 0.0
        part_number = 0
        for turn in sample.turns:
            parts = []
            for part in turn.parts:
                changed = self._part(part, able, row, part_number) if turn.role == "user" else part
                if isinstance(changed, Sound) and isinstance(part, Sound) and changed is not part:
                    length = self.seconds[changed.path]
                    before, after = before + self.seconds.get(part.path, 0.0), after + length
                parts.append(changed)
                part_number += 1
            turns.append(turn if all(map(_same, parts, turn.parts)) else replace(turn, parts=tuple(parts)))
        if all(map(_same, turns, sample.turns)):
            return sample
        extra = sample.extra
        if before and before != after and "segments" in extra:
            extra = {**extra, "segments": _stretched(extra["segments"], after / before)}
        return replace(sample, turns=tuple(turns), extra=extra)

    def features(self, item: Batch, row: int, part: int, sample: Sample) -> Batch:
        """Return an encoded row with the steps for features done to each of its sounds.

        ``part`` numbers the rows that a long one was cut into. A family without the tensor
        ``input_features`` ([C, T], or [N, C, T] for N sounds) has none that could be changed.
        """
        able = [
            (at, step)
            for at, step in enumerate(self.steps)
            if step.takes == "features" and step.allowed(sample)
        ]
        if "input_features" not in item or not able:
            return item
        features = item["input_features"].clone()
        sounds = features[None] if features.dim() == 2 else features
        for number, (sound, heard) in enumerate(zip(sounds, _heard(item, sounds), strict=True)):
            for at, step in able:
                draw = draw_of(self.seed, self.epoch, row, at, f"{step.name}:{part}:{number}")
                if draw.random() < step.p and heard:
                    sound[:, :heard] = step.augment(sound[:, :heard], draw, **step.settings)
        return {**item, "input_features": features}

    def _part(self, part: Part, able: Sequence[tuple[int, Step]], row: int, number: int) -> Part:
        """Return a part of a row after all steps that take it, each at its probability."""
        takes = {Text: "text", Image: "picture", Sound: "samples"}[type(part)]
        chosen = []
        for at, step in able:
            if step.takes == takes:
                draw = draw_of(self.seed, self.epoch, row, at, f"{step.name}:{number}")
                if draw.random() < step.p:
                    chosen.append(partial(step.augment, **step.settings, draw=draw))
        if not chosen:
            return part
        name = f"{self.epoch}-{row}-{number}"
        if isinstance(part, Text):
            text = part.text
            for change in chosen:
                text = change(text)
            return Text(text=text)
        if isinstance(part, Image):
            picture = load_image(part.path)
            for change in chosen:
                picture = change(picture)
            # Bytes as they are: compressing them would take longer than all steps together.
            picture.save(path := self.folder / f"{name}.bmp", "BMP")
            return Image(path=path)
        rate = self.rate or RATE
        samples = load_sound(part.path, rate)
        self.seconds[part.path] = len(samples) / rate
        for change in chosen:
            samples = change(samples, rate=rate)
        save_sound(path := self.folder / f"{name}.wav", samples, rate)
        self.seconds[path] = len(samples) / rate
        return Sound(path=path)


def _same(one: object, other: object) -> bool:
    return one is other


def _stretched(segments: Any, factor: float) -> Any:
    """Return a transcript's segments for a sound that lasts ``factor`` times as long."""
    if not isinstance(segments, list):
        return segments
    return [
        {**one, "start": one["start"] * factor, "end": one["end"] * factor}
        if isinstance(one, Mapping)
        and all(isinstance(one.get(edge), int | float) for edge in ("start", "end"))
        else one
        for one in segments
    ]


def features_of(item: Batch) -> Tensor | None:
    """Return the features of an encoded row's first sound [C, T], the frames that are heard; or None."""
    if "input_features" not in item:
        return None
    features = item["input_features"]
    sounds = features[None] if features.dim() == 2 else features
    sound: Tensor = sounds[0][:, : _heard(item, sounds)[0]]
    return sound


def _heard(item: Batch, sounds: Tensor) -> list[int]:
    """Return how many frames of each sound [N, C, T] are more than padding, where a mask [N, T] says so."""
    count, _, frames = sounds.shape
    for name in ("feature_attention_mask", "attention_mask"):
        if name in item and item[name].numel() == count * frames:
            return [int(found) for found in item[name].reshape(count, frames).sum(-1)]
    return [frames] * count

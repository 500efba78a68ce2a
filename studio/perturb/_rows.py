"""Rows at a strength: their pictures, sounds or questions perturbed, their answers and groups as they were.

blur = perturbation("blur")
blur.concerns(sample)                                    # whether the row has anything that it changes
Perturber(blur, seed=0, folder=folder).sample(sample, 3) # a row with its media in the folder
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from studio import plugins
from studio.augment._rows import draw_of
from studio.augment._settings import Draw
from studio.errors import ConfigError
from studio.media import load_image, load_sound, read_sound, save_sound
from studio.types import Image, Part, Sample, Sound, Text

if TYPE_CHECKING:
    from studio.media import Samples

Takes = Literal["picture", "samples", "text"]
#: The greatest strength; 0 is a row as it is.
STRONGEST = 5
#: Sounds of other rows that a perturbation is given.
OTHERS = 3
_KINDS: dict[str, Any] = {"picture": Image, "samples": Sound, "text": Text}


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A file of `studio.perturb`: what it ``takes``, and what its five ``levels`` are."""

    name: str
    takes: Takes
    perturb: Callable[..., Any]
    levels: tuple[float, ...]
    unit: str
    mixes: bool = False
    last: bool = False

    def concerns(self, sample: Sample) -> bool:
        """Return whether a row has anything that this changes."""
        return any(True for _ in self.places(sample))

    def places(self, sample: Sample) -> list[tuple[int, int]]:
        """Return the parts that this changes, by turn and number: the user's, with words if they are text."""
        found = [
            (at, number)
            for at, turn in enumerate(sample.turns)
            for number, part in enumerate(turn.parts)
            if turn.role == "user"
            and isinstance(part, _KINDS[self.takes])
            and (not isinstance(part, Text) or part.text.strip())
        ]
        return found[-1:] if self.last else found


def perturbation(name: str) -> Perturbation:
    """Return a perturbation by its name.

    Raises:
        UnknownName: if there is none; the sentence offers the nearest match.
    """
    module = plugins.load("perturb", name)
    parameters = list(inspect.signature(module.perturb).parameters)
    takes: Any = parameters[0]
    assert takes in get_args(Takes), f"{module.__name__} takes {takes}"
    assert len(module.LEVELS) == STRONGEST, f"{module.__name__} has {len(module.LEVELS)} levels"
    return Perturbation(
        name=plugins.canonical("perturb", name),
        takes=takes,
        perturb=module.perturb,
        levels=tuple(map(float, module.LEVELS)),
        unit=module.UNIT,
        mixes="others" in parameters,
        last=bool(getattr(module, "LAST", False)),
    )


def row_draw(name: str, seed: int, sample: Sample, *place: int | str) -> Draw:
    """Return a row's random numbers: those of its file's name and line, wherever the file lies."""
    return draw_of(seed, name, f"{sample.file.name}:{sample.line}:{sample.id}", *place)


@dataclass(frozen=True, kw_only=True)
class Perturber:
    """Applies one perturbation to rows; changed media are written into ``folder`` (BMP, 16-bit WAV).

    ``others`` are the sounds that voices are taken from, for a perturbation that mixes: those of other rows.
    """

    perturbation: Perturbation
    seed: int
    folder: Path
    others: Sequence[Path] = ()

    def sample(self, sample: Sample, strength: int) -> Sample:
        """Return a row at a strength from 0 to 5; itself at 0, or if it has nothing that is changed.

        Raises:
            ConfigError: for another strength.
            MediaError: if a medium cannot be read.
        """
        if not 0 <= strength <= STRONGEST:
            raise ConfigError(f"the strength must be from 0 to {STRONGEST}, not {strength}")
        places = self.perturbation.places(sample) if strength else []
        turns = [list(turn.parts) for turn in sample.turns]
        for at, number in places:
            draw = row_draw(self.perturbation.name, self.seed, sample, at, number)
            turns[at][number] = self._part(turns[at][number], draw, strength)
        if not places:
            return sample
        made = (replace(turn, parts=tuple(p)) for turn, p in zip(sample.turns, turns, strict=True))
        return replace(sample, turns=tuple(made))

    def _part(self, part: Part, draw: Draw, strength: int) -> Part:
        """Return a part of a row at a strength above 0."""
        change, level = self.perturbation.perturb, self.perturbation.levels[strength - 1]
        if isinstance(part, Text):
            return Text(text=change(part.text, draw, level))
        told = f"{self.perturbation.name} {strength} {self.seed} {part.path} {draw.bit_generator.state}"
        path = self.folder / hashlib.sha256(told.encode()).hexdigest()[:32]
        if isinstance(part, Image):
            path = path.with_suffix(".bmp")
            change(load_image(part.path), draw, level).save(path, "BMP")
            return Image(path=path)
        samples, rate = read_sound(part.path)
        more = (self._voices(part.path, rate, draw),) if self.perturbation.mixes else ()
        path = path.with_suffix(".wav")
        save_sound(path, np.asarray(change(samples, draw, level, rate, *more), dtype=np.float32), rate)
        return Sound(path=path)

    def _voices(self, own: Path, rate: int, draw: Draw) -> list[Samples]:
        others = [path for path in self.others if path != own]
        chosen = draw.permutation(len(others))[:OTHERS]
        return [load_sound(others[int(at)], rate) for at in chosen]

"""Parts of the recipe `synthesize`: rows to begin with, templates, models, agreement, finished rows."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from studio import families
from studio.data import load_data
from studio.data.identity import media_hash
from studio.errors import ConfigError, DataError, unknown
from studio.media_facts import suffixes
from studio.training.seed import derive
from studio.types import Image, Part, Sample, Sound, Text, Turn
from studio.variants import Engine

_FIELD = re.compile(r"\{(\w+)\}")
_PICTURES = tuple(end for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF") for end in suffixes(form))
_SOUNDS = tuple(end for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF") for end in suffixes(form))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row that an answer is wanted for: number ``row`` of the data, perhaps with another question.

    ``problem`` says why nothing can be proposed, where nothing can.
    """

    row: int
    sample: Sample
    answer: str = ""
    problem: str = ""


def read_rows(place: Path, split: str, question: str) -> list[Sample]:
    """Return the rows of a data file or folder; of a folder of media, one row each that asks ``question``.

    Raises:
        DataError: if there are none.
        ConfigError: if media have no question.
    """
    if place.is_file() or any(place.glob("*.jsonl")) or any(place.glob("*.parquet")):
        return load_data(place, split=split if place.is_dir() else None)
    found: list[Sample] = []
    for file in sorted(place.rglob("*")):
        kind = file.suffix.lower()
        part = Image(path=file) if kind in _PICTURES else Sound(path=file) if kind in _SOUNDS else None
        if part is not None:
            turn = Turn(role="user", parts=(part, Text(text=question)) if question else (part,))
            name = file.relative_to(place).as_posix()
            found.append(Sample(turns=(turn,), file=place, line=len(found) + 1, id=name))
    if not found:
        raise DataError(f"data folder '{place}' holds neither rows (.jsonl, .parquet) nor pictures or sounds")
    if not question and any(sample.images for sample in found):
        raise ConfigError("question must be given: the folder holds pictures, and nothing asks about them")
    return found


def fields_of(sample: Sample) -> dict[str, str]:
    """Return what a template may name: the row's groups, its ``question``, ``answer`` and ``id``."""
    asked = next((turn.text for turn in reversed(sample.turns) if turn.role == "user"), "")
    return {**sample.groups, "question": asked, "answer": sample.answer, "id": sample.id}


def filled(template: str, sample: Sample) -> str:
    """Return a template with a row's fields in it.

    Raises:
        DataError: if the row has no such field, or it is empty.
    """
    known = {name: value for name, value in fields_of(sample).items() if value}
    for name in _FIELD.findall(template):
        if name not in known:
            raise DataError(unknown("field", name, known))
    return _FIELD.sub(lambda match: known[match[1]], template)


def chosen(templates: Sequence[str], count: int, seed: int, row: int) -> list[str]:
    """Return ``count`` different templates for a row, or all if there are no more."""
    return random.Random(derive(seed, "template", row)).sample(list(templates), min(count, len(templates)))


def asked(sample: Sample, question: str) -> Sample:
    """Return a row's prompt with another question as the text of its last user turn; media stay first."""
    *before, last = sample.prompt
    media = tuple(part for part in last.parts if not isinstance(part, Text))
    turn = dataclasses.replace(last, parts=(*media, Text(text=question)))
    return dataclasses.replace(sample, turns=(*before, turn))


class Model:
    """A model that answers: a folder, a shipped name, a run, an adapter, or base+adapter."""

    def __init__(self, name: str, device: str, batch_size: int, max_new_tokens: int) -> None:
        """Find the model; its weights are loaded when it is first asked."""
        from studio.augment._model import folders

        base, adapter = folders(name)
        self.name = Path(name).name if os.path.isabs(name) else name
        self._engine = Engine(base, {"model": adapter}, device=device)
        self._base = base
        self._settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        self.fingerprint = self._engine.fingerprint("model")

    def answers(
        self, samples: Sequence[Sample], count: int, temperature: float, seed: int
    ) -> list[list[str] | str]:
        """Return ``count`` answers to each sample, or the sentence why the model does not take it."""
        try:
            return list(self._answers(samples, count, temperature, seed))
        except DataError:
            problems = [self._problem(sample) for sample in samples]
        able = [sample for sample, problem in zip(samples, problems, strict=True) if not problem]
        given = iter(self._answers(able, count, temperature, seed))
        return [problem or next(given) for problem in problems]

    def _answers(
        self, samples: Sequence[Sample], count: int, temperature: float, seed: int
    ) -> list[list[str]]:
        several = [sample for sample in samples for _ in range(count)]
        told = self._engine.answers("model", several, temperature=temperature, seed=seed, **self._settings)
        return [told[at : at + count] for at in range(0, len(told), count)]

    def _problem(self, sample: Sample) -> str:
        gauge = families.gauge(self._base)
        try:
            gauge.family.encode(gauge.processor, sample, False)
        except DataError as error:
            return str(error).removeprefix(f"{sample.where}: ")
        return ""


def closeness(metric: ModuleType, one: str, other: str) -> float:
    """Return how near two texts are by a metric, from 0 to 1 (an error rate is turned round)."""
    value = float(metric.score([one], [other]))
    return max(0.0, min(1.0, value if metric.HIGHER_IS_BETTER else 1 - value))


def agreed(candidates: Sequence[str], metric: ModuleType) -> tuple[str, float]:
    """Return the candidate that all are nearest to, and how near they are on average, itself included.

    With exact match that is the most frequent answer and its share (self-consistency, Wang et al. 2022,
    arXiv:2203.11171). Of equals the first is taken.
    """
    known: dict[tuple[str, str], float] = {}

    def near(one: str, other: str) -> float:
        if (one, other) not in known:
            known[one, other] = closeness(metric, other, one)
        return known[one, other]

    means = [sum(near(one, other) for other in candidates) / len(candidates) for one in candidates]
    best = max(range(len(candidates)), key=lambda at: means[at])
    return candidates[best], means[best]


def finished(
    draft: Draft, answer: str, told: Mapping[str, Any], by: str, place: Callable[[Path], Path]
) -> Sample:
    """Return the row to write: the answer in place of what it had, marked in ``source`` with its origin.

    ``place`` says where a medium lies beside the new rows; ``told`` goes into ``extra.synthetic``.
    """
    sample = draft.sample

    def moved(part: Part) -> Part:
        if isinstance(part, Text):
            return part
        return Image(path=place(part.path)) if isinstance(part, Image) else Sound(path=place(part.path))

    turns = [dataclasses.replace(t, parts=tuple(map(moved, t.parts))) for t in sample.prompt]
    turns.append(Turn(role="assistant", parts=(Text(text=answer),)))
    # The same for all rows of a set, which a card of the set then counts; `extra` names the row.
    origin = sample.source or f"{sample.file.parent.name}/{sample.file.name}"
    return dataclasses.replace(
        sample,
        turns=tuple(turns),
        chosen=(),
        rejected=(),
        source=f"synthetic: {by}; from {origin}",
        id="",
        extra={**sample.extra, "synthetic": {**told, "from": _origin(sample)}},
    )


def _origin(sample: Sample) -> dict[str, Any]:
    named = {"source": sample.source, "id": sample.id}
    return {"file": sample.file.name, "line": sample.line} | {k: v for k, v in named.items() if v}


class Media:
    """The media beside the new rows: each copied once, under a name made of its contents."""

    def __init__(self, folder: Path) -> None:
        """Copy into ``folder``/media."""
        self._folder = folder / "media"

    def __call__(self, path: Path) -> Path:
        """Return where a medium lies, after copying it there if need be."""
        target = self._folder / f"{media_hash(path)[:24]}{path.suffix.lower()}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(path, part)
            os.replace(part, target)
        return target

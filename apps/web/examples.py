"""Example questions: test rows of each domain, one after another, with the answer they expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.web.question import Question
from studio.types import Sample, Text

_STRIDE = 37
"""Step from one example to the next: test sets are often sorted, and neighbours look alike."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question with its expected answer, and its place among its domain's examples."""

    domain: str
    number: int
    total: int
    question: Question
    expected: str


class Examples:
    """The examples of all domains; only rows that the page can ask: one turn, at most one of each medium."""

    def __init__(self, data: Mapping[str, Sequence[Sample]] | None = None) -> None:
        """Keep what can be asked of ``data``, a mapping of domain to samples."""
        askable = {domain: [s for s in rows if _askable(s)] for domain, rows in (data or {}).items()}
        self._rows = {domain: rows for domain, rows in askable.items() if rows}

    @property
    def domains(self) -> list[str]:
        """The domains that have examples, in the order given."""
        return list(self._rows)

    def pick(self, domain: str, turn: int) -> Example:
        """Return the example that comes up when a domain is asked for the ``turn``-th time (from 0)."""
        rows = self._rows[domain]
        step = next(s for s in range(_STRIDE, _STRIDE + len(rows) + 1) if _coprime(s, len(rows)))
        place = turn * step % len(rows)
        sample = rows[place]
        return Example(
            domain=domain,
            number=place + 1,
            total=len(rows),
            question=_question(sample),
            expected=sample.answer,
        )


def _askable(sample: Sample) -> bool:
    prompt = sample.prompt
    return len(prompt) == 1 and prompt[0].role == "user" and len(sample.images) < 2 and len(sample.sounds) < 2


def _question(sample: Sample) -> Question:
    picture: list[Path] = [image.path for image in sample.images]
    sound: list[Path] = [sound.path for sound in sample.sounds]
    text = "".join(part.text for part in sample.prompt[0].parts if isinstance(part, Text))
    return Question(
        text=text.strip(), picture=picture[0] if picture else None, sound=sound[0] if sound else None
    )


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1

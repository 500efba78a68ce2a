"""Length filter: rows whose prompt or answer is too short or too long, in characters, words or turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from studio.data.steps._step import Bench, Edit, Outcome, removal, within
from studio.data.steps._texts import answered, asked
from studio.types import Sample

_ANY = (0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits, both ends included; none is no limit."""

    min_answer: int | None = field(default=1, metadata={"help": "least characters of the answers"})
    max_answer: int | None = field(default=None, metadata={"help": "most characters of the answers"})
    min_prompt: int | None = field(default=None, metadata={"help": "least characters of the prompt's text"})
    max_prompt: int | None = field(default=None, metadata={"help": "most characters of the prompt's text"})
    min_words: int | None = field(default=None, metadata={"help": "least words of the answers"})
    max_words: int | None = field(default=None, metadata={"help": "most words of the answers"})
    max_turns: int | None = field(default=None, metadata={"help": "most turns of a conversation"})


def check(settings: Settings) -> None:
    """Refuse limits below 0."""
    within(settings, **{name: _ANY for name in Settings.__dataclass_fields__})


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows that lie outside of a limit; the reason names the first."""
    bench.log.stage("length", len(samples), "rows")
    edits: list[Edit] = []
    count: Counter[str] = Counter()
    for sample in samples:
        bench.log.advance()
        answer = answered(sample)
        figures = {
            "answer": (len(answer.strip()), "characters in the answer"),
            "prompt": (len(asked(sample).strip()), "characters in the prompt"),
            "words": (len(answer.split()), "words in the answer"),
            "turns": (len(sample.turns), "turns"),
        }
        for name, (value, unit) in figures.items():
            low = getattr(settings, f"min_{name}", None)
            high = getattr(settings, f"max_{name}", None)
            if low is not None and value < low:
                edits.append(removal(sample, f"{value} {unit}; at least {low} are wanted"))
            elif high is not None and value > high:
                edits.append(removal(sample, f"{value} {unit}; at most {high} are wanted"))
            else:
                continue
            count[name] += 1
            break
    return Outcome(edits=edits, report={"reasons": dict(count)})

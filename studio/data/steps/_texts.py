"""The texts of a row: read, compared and rewritten."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from studio.types import Part, Sample, Text, Turn

_SPACE = re.compile(r"\s+")
_NOT_WORD = re.compile(r"[^\w\s]|_")


def texts(sample: Sample) -> list[str]:
    """Return all texts of a row: turns, then chosen, then rejected."""
    return [turn.text for turn in (*sample.turns, *sample.chosen, *sample.rejected)]


def asked(sample: Sample) -> str:
    """Return what all others than the assistant say."""
    return "\n".join(turn.text for turn in sample.turns if turn.role != "assistant")


def answered(sample: Sample) -> str:
    """Return what the assistant says: in the turns, chosen and rejected."""
    turns = (*sample.turns, *sample.chosen, *sample.rejected)
    return "\n".join(turn.text for turn in turns if turn.role == "assistant")


def folded(text: str) -> str:
    """Return a text as it is compared: NFKC, small letters, no punctuation, single spaces."""
    plain = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _SPACE.sub(" ", plain).strip()


def rewritten(sample: Sample, rewrite: Callable[[str], str], strip: bool = False) -> Sample | None:
    """Return a row with ``rewrite`` done to each text; None if nothing would be left of one of its turns.

    A text that becomes empty falls away where its turn has other parts. ``strip`` also removes the white
    space at both ends of a turn, but none between its parts.
    """
    whole: list[tuple[Turn, ...]] = []
    for turns in (sample.turns, sample.chosen, sample.rejected):
        made = []
        for turn in turns:
            parts: list[Part] = []
            for at, part in enumerate(turn.parts):
                if isinstance(part, Text):
                    text = rewrite(part.text)
                    if strip:
                        text = text.lstrip(" \n") if at == 0 else text
                        text = text.rstrip(" \n") if at == len(turn.parts) - 1 else text
                    if not text and part.text:
                        continue
                    part = part if text == part.text else Text(text=text)
                parts.append(part)
            if not any(not isinstance(part, Text) or part.text for part in parts):
                return None
            made.append(turn if tuple(parts) == turn.parts else replace(turn, parts=tuple(parts)))
        whole.append(tuple(made))
    if tuple(whole) == (sample.turns, sample.chosen, sample.rejected):
        return sample
    return replace(sample, turns=whole[0], chosen=whole[1], rejected=whole[2])

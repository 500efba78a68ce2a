"""Words in a row that a step would make untrue: a mirrored picture has its left on the right.

labels: none of [left, right]      the list is the user's; a row that holds one is refused
otherwise: skip                    such rows are left as they are, instead
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from studio._convert import Wrong
from studio.types import Sample

_FORM = re.compile(r"\s*none of\s*\[(.*)\]\s*", re.DOTALL)
ALLOWED = ("refuse", "skip")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The words, and whether rows that hold one are refused or left as they are."""

    words: tuple[str, ...]
    skip: bool

    def found(self, sample: Sample) -> str:
        """Return the first of the words that a row's answers or questions hold, or the empty string."""
        text = " ".join(turn.text for turn in (*sample.turns, *sample.chosen, *sample.rejected))
        return next((word for word in self.words if _holds(text, word)), "")


def read_guard(labels: Any, otherwise: Any = "refuse") -> Guard:
    """Return the guard that ``labels`` describes: ``none of [left, right]``, or a list of the words.

    Raises:
        Wrong: as the end of a sentence, if it does not have this form or names no word.
    """
    if isinstance(labels, str):
        match = _FORM.fullmatch(labels)
        labels = match[1].split(",") if match else None
    if not isinstance(labels, list | tuple):
        raise Wrong("must have the form 'none of [left, right]'")
    words = tuple(str(word).strip().strip("'\"") for word in labels)
    if not words or not all(words):
        raise Wrong("names no word")
    if otherwise not in ALLOWED:
        raise Wrong(f"go with otherwise: {' or '.join(ALLOWED)}, not {otherwise!r}")
    return Guard(words=words, skip=otherwise == "skip")


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None

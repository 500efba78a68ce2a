"""Leave words out (Wei and Zou 2019, arXiv:1901.11196)."""

from __future__ import annotations

from typing import Annotated

from studio.augment._settings import Between, Draw
from studio.augment._words import joined, words_of


def augment(text: str, draw: Draw, *, rate: Annotated[float, Between(0.0, 0.9)] = 0.1) -> str:
    """Return the text without each of its words at probability ``rate``; one word always stays."""
    lead, words = words_of(text)
    if len(words) < 2:
        return text
    kept = draw.random(len(words)) >= rate
    if not kept.any():
        kept[draw.integers(len(words))] = True
    left = [word for word, keep in zip(words, kept, strict=True) if keep]
    left[-1] = left[-1][0], words[-1][1]  # the text ends as it did
    return joined(lead, left)

"""Let words change places (Wei and Zou 2019, arXiv:1901.11196)."""

from __future__ import annotations

from typing import Annotated

from studio.augment._settings import Between, Draw
from studio.augment._words import joined, words_of


def augment(text: str, draw: Draw, *, rate: Annotated[float, Between(0.0, 1.0)] = 0.1) -> str:
    """Return the text after a share ``rate`` of its words, at least one, has changed places with another."""
    lead, words = words_of(text)
    if len(words) < 2:
        return text
    for _ in range(max(1, round(rate * len(words)))):
        one, other = (int(at) for at in draw.choice(len(words), 2, replace=False))
        (first, before), (second, behind) = words[one], words[other]
        words[one], words[other] = (second, before), (first, behind)
    return joined(lead, words)

"""Put synonyms of words in between, or say a word twice (Wei and Zou 2019, arXiv:1901.11196)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from studio.augment._settings import Between, Draw
from studio.augment._words import joined, synonym, table_of, words_of


def augment(
    text: str, draw: Draw, *, rate: Annotated[float, Between(0.0, 1.0)] = 0.1, table: Path | None = None
) -> str:
    """Return the text with a share ``rate`` more words, at least one; it begins and ends as it did.

    With a ``table`` (as `synonyms` reads it) a synonym of one of its words is put anywhere; where there is
    none, and without a table, a word is said twice.
    """
    known = table_of(table) if table else {}
    lead, words = words_of(text)
    if not words:
        return text
    for _ in range(max(1, round(rate * len(words)))):
        at = int(draw.integers(len(words)))
        word = words[at][0]
        other = synonym(word, known, draw)
        place = int(draw.integers(len(words))) if other else at
        words.insert(place, (other or word, " "))
    return joined(lead, words)


def check(*, table: Path | None, **settings: object) -> None:
    """Raise `Wrong` if the table cannot be read."""
    if table is not None:
        table_of(table)

"""Replace words by others of the same meaning, from the user's own table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from studio.augment._settings import Between, Draw
from studio.augment._words import joined, some, synonym, table_of, words_of


def augment(text: str, draw: Draw, *, table: Path, rate: Annotated[float, Between(0.0, 1.0)] = 0.2) -> str:
    """Return the text with a share ``rate`` of the words that ``table`` knows replaced, at least one of them.

    ``table`` is YAML or JSON (word: [others]), or a text file of lines ``word, word, word``.
    """
    known = table_of(table)
    lead, words = words_of(text)
    able = [at for at, (word, _) in enumerate(words) if synonym(word, known, draw)]
    for at in some(draw, len(able), rate) if able else ():
        word, gap = words[able[at]]
        words[able[at]] = synonym(word, known, draw), gap
    return joined(lead, words)


def check(*, table: Path, **settings: object) -> None:
    """Raise `Wrong` if the table cannot be read."""
    table_of(table)

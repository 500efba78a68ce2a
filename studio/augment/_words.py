"""Texts as words with the white space behind each, and tables of words that mean the same."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from studio._convert import Wrong, parse
from studio.augment._settings import Draw

_WORD = re.compile(r"(\S+)(\s*)")
_BARE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


def words_of(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the white space a text begins with, and its words, each with the white space behind it."""
    lead = text[: len(text) - len(text.lstrip())]
    return lead, _WORD.findall(text.lstrip())


def joined(lead: str, words: list[tuple[str, str]]) -> str:
    """Return the text that these words make up."""
    return lead + "".join(word + gap for word, gap in words)


def some(draw: Draw, count: int, rate: float) -> list[int]:
    """Return which of ``count`` words to change: a share ``rate`` of them, at least one, in order."""
    chosen = draw.permutation(count)[: max(1, round(rate * count))]
    return sorted(int(at) for at in chosen)


def synonym(word: str, table: dict[str, tuple[str, ...]], draw: Draw) -> str:
    """Return a word of the same meaning, with the punctuation and the capital of ``word``, or ""."""
    before, bare, behind = _BARE.match(word).groups()  # type: ignore[union-attr]
    others = table.get(bare.casefold(), ())
    if not others:
        return ""
    other = others[draw.integers(len(others))]
    return before + (other[:1].upper() + other[1:] if bare[:1].isupper() else other) + behind


def table_of(path: Path) -> dict[str, tuple[str, ...]]:
    """Return word -> words of the same meaning: from YAML, JSON, or lines of words with commas or tabs.

    In YAML and JSON each word has a list; of a line's words each may stand for each other.

    Raises:
        Wrong: as the end of a sentence, if it cannot be read or holds no word.
    """
    return _table(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _table(path: Path, _time: int) -> dict[str, tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise Wrong(f"'{path}' cannot be read as text") from None
    found: dict[str, tuple[str, ...]] = {}
    if path.suffix in (".yaml", ".yml", ".json"):
        try:
            read: Any = parse(text)
        except Wrong:
            read = None
        if not isinstance(read, dict) or not all(isinstance(them, list) for them in read.values()):
            raise Wrong(f"'{path}' is no mapping of words to lists of words")
        found = {str(word).casefold(): tuple(map(str, them)) for word, them in read.items() if them}
    else:
        for line in text.splitlines():
            group = [word.strip() for word in re.split(r"[,\t;]", line) if word.strip()]
            for word in group if len(group) > 1 else ():
                others = tuple(other for other in group if other != word)
                found[word.casefold()] = tuple(dict.fromkeys((*found.get(word.casefold(), ()), *others)))
    if not found:
        raise Wrong(f"'{path}' holds no words that mean the same")
    return found

"""A table with tabs, as Common Voice has them: one question and one answer a row.

    path             sentence
    clips/1.mp3      Good morning.

Columns, what is kept and what is refused are those of `csv`; cells with a tab or a line break stand in
quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats import _separated
from studio.data.formats._ledger import Ledger
from studio.types import Sample

SUFFIXES = (".tsv",)


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return _separated.detect(path, ".tsv", "\t")


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return _separated.read(path, ledger, "\t")


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.tsv and its media; return the number of rows."""
    return _separated.write(samples, folder, split, ledger, "tsv", "\t")

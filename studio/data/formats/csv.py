"""A table with commas: one question and one answer a row.

    prompt,answer,image,audio
    <image>What is this?,A carpet.,media/1.png,

Columns are known by their names. Question: ``prompt``, ``question``, ``instruction`` ...; answer:
``answer``, ``output``, ``transcription``, ``caption`` ...; media: ``image``, ``audio``, ``file_name`` ...
(a JSON list for several). Media without a tag stand before the question. Other columns go to ``extra``.
Kept in the column ``triptych``: groups, weight, loss by turn, ``extra``, the borders of texts that stand
side by side. Refused: more than one question and one answer, more than one message in ``chosen`` or
``rejected``, a zero character, a text that holds a tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats import _separated
from studio.data.formats._ledger import Ledger
from studio.types import Sample

SUFFIXES = (".csv",)


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return _separated.detect(path, ".csv", ",")


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return _separated.read(path, ledger, ",")


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.csv and its media; return the number of rows."""
    return _separated.write(samples, folder, split, ledger, "csv", ",")

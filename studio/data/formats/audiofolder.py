"""Hugging Face's AudioFolder: a folder of sounds with ``metadata.jsonl`` or ``.csv``, or one a class.

    train/metadata.jsonl   {"file_name": "media/1.wav", "transcription": "Good morning."}
    train/media/1.wav

The answer is ``transcription`` (or another name that `csv` knows); without metadata it is the name of the
sound's folder. Kept under the key ``triptych``: groups, weight, loss by turn, the borders of texts that
stand side by side. Refused: rows that are not about exactly one sound, with more than one question and one
answer, or with ``chosen``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats import _medium_rows
from studio.data.formats._ledger import Ledger
from studio.types import Sample

splits = _medium_rows.splits


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return _medium_rows.detect(path, "audio")


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one split's folder."""
    return _medium_rows.read(path, ledger)


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write the sounds and ``metadata.jsonl`` into ``split``/; return the number of rows."""
    return _medium_rows.write(
        samples,
        folder,
        split,
        ledger,
        lambda row: _medium_rows.encode(row, "audiofolder", "audio", "transcription"),
    )

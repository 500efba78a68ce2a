"""Our own rows, one line of JSON each: messages of typed parts, with all that a row may hold.

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "media/1.png"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A carpet."}], "id": "1", "groups": {"site": "north"}}

``studio/data/schema.json`` says exactly what a row may hold. Nothing is lost and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats._ledger import Ledger
from studio.data.formats._look import look
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.types import Sample

SUFFIXES = (".jsonl", ".json")
_OTHERS = {"images", "image", "audios", "audio", "videos", "rejected_messages", "rejected_response"}


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    if "messages" not in row or _OTHERS & row.keys():
        return None
    return "the rows have 'messages'"


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return None if path.suffix == ".parquet" else look(path, "triptych", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, lambda row, ledger: row)


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl and its media; return the number of rows."""
    return write_rows(samples, folder, split, ledger, lambda row: row)

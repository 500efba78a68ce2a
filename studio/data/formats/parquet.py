"""Our own rows as Parquet: the columns are the keys of a row, which `load_data` reads as they are.

``groups`` and ``extra`` are JSON text. Media lie beside the file. Nothing is lost and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.formats._copies import Copies
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import look
from studio.data.formats._rows import Values, encoded, read_rows
from studio.data.formats.triptych import looks
from studio.data.parquet import BATCH, arrow, columns, native, schema
from studio.types import Sample

SUFFIXES = (".parquet",)


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "parquet", looks) if _only_parquet(path) else None


def _only_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" if path.is_file() else any(path.glob("*.parquet"))


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, lambda row, ledger: native(row))


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.parquet and its media; return the number of rows."""
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetWriter(folder / f"{split}.parquet", schema()) as file:
        for batch in batches(encoded(samples, Copies(folder, ledger), ledger, lambda row: row)):
            file.write_table(batch)
            count += batch.num_rows
    return count


def batches(rows: Iterable[Values]) -> Iterator[Any]:
    """Yield tables of at most `BATCH` rows."""
    pa, held = arrow(), []
    for row in rows:
        held.append(columns(row))
        if len(held) == BATCH:
            yield pa.Table.from_pylist(held, schema=schema())
            held = []
    if held:
        yield pa.Table.from_pylist(held, schema=schema())

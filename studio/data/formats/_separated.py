"""Tables of text, one row a sample, cells between commas or tabs (RFC 4180)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from studio.data.formats._columns import COLUMNS, decode, encode, meaning, reason
from studio.data.formats._copies import Copies
from studio.data.formats._kept import NAMES
from studio.data.formats._ledger import Ledger, Torn
from studio.data.formats._look import data_files
from studio.data.formats._rows import KEY, Values, encoded, samples_of
from studio.errors import DataError
from studio.types import Sample

LONGEST = 16 << 20
"""Most characters in one cell."""
HEADER = (*COLUMNS, *NAMES, KEY)


def detect(path: Path, suffix: str, delimiter: str) -> str | None:
    """Return why the data at ``path`` is such a table, or None."""
    for file in data_files(path, (suffix,)):
        if told := reason(header(file, delimiter)):
            return f"{file.name} has {told}"
    return None


def header(file: Path, delimiter: str) -> list[str]:
    """Return the names of the columns; none if the file cannot be read."""
    try:
        _, names = next(cells(file, delimiter), (0, None))
    except OSError:
        return []
    return names if isinstance(names, list) else []


def cells(file: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Yield line number and cells of every row, or the `DataError` it gave.

    Raises:
        OSError: if the file cannot be read.
    """
    csv.field_size_limit(LONGEST)
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield line, Torn(f"not a row of cells ({error})")
                return
            if row is None:
                return
            if row:
                yield line, row
            line = reader.line_num + 1


def rows(file: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Yield line number and cells by column name of every row, or the `DataError` it gave."""
    found = cells(file, delimiter)
    _, names = next(found, (0, []))
    if isinstance(names, DataError):
        yield 1, names
        return
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        yield 1, DataError(f"the column '{twice[0]}' is there twice")
        return
    for line, row in found:
        if isinstance(row, DataError):
            yield line, row
        elif len(row) != len(names):
            yield line, DataError(f"the row has {len(row)} cells for {len(names)} columns")
        else:
            filled = {name: cell for name, cell in zip(names, row, strict=True) if cell}
            yield line, filled


def read(path: Path, ledger: Ledger, delimiter: str) -> Iterator[Sample]:
    """Yield the samples of one file."""
    mean = meaning(header(path, delimiter))
    yield from samples_of(path, rows(path, delimiter), ledger, partial(decode, mean=mean), path.parent)


def write(
    samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger, name: str, delimiter: str
) -> int:
    """Write ``split`` with the suffix ``name``, and its media; return the number of rows."""
    count = 0
    with open(folder / f"{split}.{name}", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(HEADER)
        for row in encoded(samples, Copies(folder, ledger), ledger, lambda row: _cells(row, name)):
            table.writerow([row.get(column, "") for column in HEADER])
            count += 1
    return count


def _cells(row: Values, name: str) -> Values:
    made = encode(row, name)
    if any("\0" in str(value) for value in chain(made, made.values())):
        raise DataError("a text holds a zero character, which a table of text cannot")
    return made

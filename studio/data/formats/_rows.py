"""Rows of other tools as JSON values: read from .json, .jsonl, .parquet and .arrow, written as .jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from studio.data.formats._copies import Copies
from studio.data.formats._ledger import Ledger, Torn
from studio.data.jsonl import text_lines
from studio.data.parquet import full, table_rows
from studio.data.rows import row_of, sample_of
from studio.errors import DataError
from studio.types import Sample

Values = dict[str, Any]
"""A row of another tool, or a row of ours: JSON values, in which bytes may stand for a medium."""
SUFFIXES = (".jsonl", ".json", ".parquet")
KEY = "triptych"
"""The key of another tool's row under which stands what that tool knows nothing of, as JSON text."""
LOOKED_AT = 20
"""Rows that are looked at to tell one format from another."""
_CHUNK, _LARGEST = 1 << 20, 64 << 20
_SPACE = re.compile(r"[\s,]*")
_BOM = "\ufeff"


def values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line (or row) number of every row and its values, or the `DataError` it gave.

    Raises:
        DataError: if the file cannot be read on.
    """
    if path.suffix in (".parquet", ".arrow"):
        for number, row in enumerate(table_rows(path), start=1):
            yield number, full(row)
    elif path.suffix == ".json":
        yield from _array(path)
    else:
        for number, line in text_lines(path):
            try:
                if isinstance(line, DataError):
                    raise line
                yield number, _parsed(line)
            except DataError as error:
                yield number, error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError):
        raise DataError("not valid JSON (too deep, or a number is too long)") from None


def _array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the members of a JSON array (or values that follow each other), holding one in memory."""
    decoder = json.JSONDecoder()
    text, line, ended, opened = "", 1, False, False
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read(_CHUNK).removeprefix(_BOM)
        while True:
            space = _SPACE.match(text)
            at = space.end() if space else 0
            line += text.count("\n", 0, at)
            text = text[at:]
            if not opened and text.startswith("["):
                text, opened = text[1:], True
                continue
            if opened and text.startswith("]"):
                return
            if not text or (not ended and len(text) < _CHUNK // 4):
                more = file.read(_CHUNK)
                ended = not more
                if ended and not text:
                    if opened:
                        yield line, Torn("the file ends inside the JSON array")
                    return
                text += more
                if more:
                    continue
            try:
                row, end = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                if not ended and len(text) < _LARGEST:
                    more = file.read(max(_CHUNK, len(text)))
                    ended, text = not more, text + more
                    continue
                at_line = line + text.count("\n", 0, error.pos)
                yield at_line, Torn(f"not valid JSON ({error.msg}); the rest of the file is not read")
                return
            except (ValueError, RecursionError):
                yield line, Torn("not valid JSON (too deep, or a number is too long)")
                return
            yield line, row
            line += text.count("\n", 0, end)
            text = text[end:]


def first(path: Path) -> list[Values]:
    """Return the first rows of a data file that are objects; none if it is no such file."""
    if not path.is_file() or path.suffix not in (*SUFFIXES, ".arrow"):
        return []
    try:
        return [row for _, row in islice(values(path), LOOKED_AT) if isinstance(row, dict)]
    except (DataError, OSError):
        return []


def read_rows(path: Path, ledger: Ledger, decode: Callable[[Values, Ledger], Values]) -> Iterator[Sample]:
    """Yield the samples of a file whose rows ``decode`` turns into rows of ours."""
    yield from samples_of(path, values(path), ledger, decode, path.parent)


def samples_of(
    path: Path,
    rows: Iterable[tuple[int, Any]],
    ledger: Ledger,
    decode: Callable[[Values, Ledger], Values],
    media: Path,
) -> Iterator[Sample]:
    """Yield the samples of ``rows``; those that are wrong go into the ledger with file and line."""
    folder = ledger.folder(media)
    for number, row in rows:
        sample = None
        with ledger.row(f"{path}:{number}"):
            if isinstance(row, DataError):
                raise row
            if not isinstance(row, dict):
                raise DataError("row must be an object")
            sample = sample_of(decode(row, ledger), folder, path, number)
        if sample is not None:
            yield sample


def write_rows(
    samples: Iterable[Sample],
    folder: Path,
    split: str,
    ledger: Ledger,
    encode: Callable[[Values], Values],
    suffix: str = ".jsonl",
) -> int:
    """Write ``split``.jsonl (or .json, one array) of what ``encode`` makes of our rows; return how many."""
    count = 0
    with open(folder / f"{split}{suffix}", "w", encoding="utf-8", newline="\n") as file:
        array = suffix == ".json"
        for row in encoded(samples, Copies(folder, ledger), ledger, encode):
            before = ("[\n" if not count else ",\n") if array else ""
            file.write(before + json.dumps(row, ensure_ascii=False) + ("" if array else "\n"))
            count += 1
        if array:
            file.write("\n]\n" if count else "[]\n")
    return count


def encoded(
    samples: Iterable[Sample], copies: Copies, ledger: Ledger, encode: Callable[[Values], Values]
) -> Iterator[Values]:
    """Yield what ``encode`` makes of each sample's row after its media are in place."""
    for sample in samples:
        row = None
        with ledger.row(sample.where):
            made, media = copies.named(sample)
            row = encode(row_of(made, copies.folder))
            copies.place(media)
        if row is not None:
            ledger.good += 1
            if KEY in row:
                ledger.unseen |= json.loads(row[KEY]).keys() - {"format"}
            yield row

"""Data files: JSON lines or Parquet, one `Sample` a row, streamed in and written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.parquet import parquet_rows
from studio.data.rows import Folder, read_row, row_of, sample_of
from studio.errors import DataError, unknown
from studio.types import Sample

LONGEST = 64 << 20
"""Longest line, in bytes: a file without line breaks is not read into memory."""
SHOWN = 10
"""How many wrong rows one error tells in full; the rest is counted."""


def load_data(path: Path | str, split: str | None = None) -> list[Sample]:
    """Return all samples of a ``.jsonl`` or ``.parquet`` file, or of the file ``<split>`` in a folder.

    Args:
        path: a data file, or a folder with files such as ``train.jsonl`` and ``test.jsonl``.
        split: which file of a folder; may be left out where there is only one. Ignored for a file.

    Raises:
        DataError: naming all wrong rows together (the first ten, and how many there are).
    """
    return list(samples(find_data(path, split)))


def find_data(path: Path | str, split: str | None = None) -> Path:
    """Return the data file that ``path`` and ``split`` mean.

    Raises:
        DataError: if there is none, or several and no ``split`` to choose.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        near = list(data_splits(path.parent)) if path.parent.is_dir() else []
        hint = f"; {unknown('data file', path.stem, near)}" if near else ""
        raise DataError(f"data '{path}' does not exist{hint}")
    files = data_splits(path)
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    if not files:
        raise DataError(f"data folder '{path}' holds no .jsonl or .parquet file")
    if split is None:
        raise DataError(f"data folder '{path}' holds several files; name a split: {', '.join(files)}")
    if split not in files:
        raise DataError(f"data folder '{path}': {unknown('split', split, files)}")
    return files[split]


def data_splits(folder: Path) -> dict[str, Path]:
    """Return the data files in a folder by split.

    Raises:
        DataError: if one split is there twice.
    """
    files: dict[str, Path] = {}
    for file in sorted((*folder.glob("*.jsonl"), *folder.glob("*.parquet"))):
        if file.stem in files:
            raise DataError(
                f"data folder '{folder}' holds {file.stem}.jsonl and {file.stem}.parquet; keep one"
            )
        files[file.stem] = file
    return files


def samples(path: Path | str, begins: Callable[[int], None] | None = None) -> Iterator[Sample]:
    """Yield the samples of a data file, holding one line in memory (of a Parquet file, one batch).

    From the first wrong row on nothing more is yielded: the rest is only read to find the other
    wrong rows, and all are raised together. ``begins`` is told the byte offset of each line of JSON
    before its sample is yielded.

    Raises:
        DataError: if the file cannot be read, has wrong rows, or holds no sample.
    """
    path = Path(os.path.abspath(path))
    folder = Folder(path.parent)
    wrong: list[str] = []
    count = good = 0
    if path.suffix == ".parquet":
        read: Callable[[Any, Folder, Path, int], Sample] = sample_of
        rows: Iterable[tuple[int, Any]] = parquet_rows(path)
    else:
        read, rows = read_row, text_lines(path, begins)
    try:
        for number, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                sample = read(row, folder, path, number)
            except DataError as error:
                count += 1
                if len(wrong) < SHOWN:
                    wrong.append(f"{path}:{number}: {error}")
            else:
                good += 1
                if not count:
                    yield sample
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read ({error.strerror})") from None
    if count:
        raise DataError(together(wrong, count, "rows", count + good))
    if not good:
        raise DataError(f"data file '{path}' holds no samples")


def text_lines(
    path: Path, begins: Callable[[int], None] | None = None
) -> Iterator[tuple[int, str | DataError]]:
    """Yield the number and the text of every line that is not blank, or the error it gave."""
    offset = number = 0
    with open(path, "rb") as file:
        while raw := file.readline(LONGEST):
            number += 1
            size = len(raw)
            try:
                if size == LONGEST and raw[-1:] != b"\n":
                    while (more := file.readline(LONGEST)) and more[-1:] != b"\n":
                        size += len(more)
                    size += len(more)
                    raise DataError(f"the line is longer than {LONGEST} bytes")
                line: str | DataError = bare_line(raw, number)
            except DataError as error:
                line = error
            if line:
                if begins:
                    begins(offset)
                yield number, line
            offset += size


def bare_line(raw: bytes, number: int) -> str:
    """Return line ``number`` as text, or the empty string if it is blank.

    Raises:
        DataError: if it is not UTF-8.
    """
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start + 1} of the line") from None
    return line if not line.isspace() else ""


def together(sentences: list[str], count: int, unit: str, total: int) -> str:
    """Return one message for ``count`` problems, of which ``sentences`` are shown."""
    if count == 1:
        return sentences[0]
    more = f"\n  and {count - len(sentences)} more" if count > len(sentences) else ""
    return f"{count} of {total} {unit} are wrong:\n  " + "\n  ".join(sentences) + more


def write_jsonl(path: Path | str, rows: Iterable[Sample]) -> int:
    """Write samples as a data file that appears whole or not at all; return how many there are.

    Media stay where they are and are named relative to the file's folder.

    Raises:
        DataError: if a medium lies outside that folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            for sample in rows:
                file.write(json.dumps(row_of(sample, path.parent), ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count

"""Data files: JSON lines, one `Sample` a line, streamed in and written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.rows import Folder, read_row, row_of
from studio.errors import DataError, unknown
from studio.types import Sample

SHOWN = 10
"""How many wrong rows one error tells in full; the rest is counted."""


def load_data(path: Path | str, split: str | None = None) -> list[Sample]:
    """Return all samples of a ``.jsonl`` file, or of ``<split>.jsonl`` in a folder.

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
        near = [file.stem for file in path.parent.glob("*.jsonl")] if path.parent.is_dir() else []
        hint = f"; {unknown('data file', path.stem, near)}" if near else ""
        raise DataError(f"data '{path}' does not exist{hint}")
    files = {file.stem: file for file in sorted(path.glob("*.jsonl"))}
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    if not files:
        raise DataError(f"data folder '{path}' holds no .jsonl file")
    if split is None:
        raise DataError(f"data folder '{path}' holds several files; name a split: {', '.join(files)}")
    if split not in files:
        raise DataError(f"data folder '{path}': {unknown('split', split, files)}")
    return files[split]


def samples(path: Path | str) -> Iterator[Sample]:
    """Yield the samples of a data file, holding one line in memory.

    From the first wrong row on nothing more is yielded: the rest is only read to find the other
    wrong rows, and all are raised together.

    Raises:
        DataError: if the file cannot be read, has wrong rows, or holds no sample.
    """
    path = Path(os.path.abspath(path))
    folder = Folder(path.parent)
    wrong: list[str] = []
    count = good = 0
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                    if not line.strip():
                        continue
                    sample = read_row(line, folder, path, number)
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 at byte {error.start + 1} of the line"
                except DataError as error:
                    problem = str(error)
                else:
                    good += 1
                    if not count:
                        yield sample
                    continue
                count += 1
                if len(wrong) < SHOWN:
                    wrong.append(f"{path}:{number}: {problem}")
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read ({error.strerror})") from None
    if count:
        raise DataError(together(wrong, count, "rows", count + good))
    if not good:
        raise DataError(f"data file '{path}' holds no samples")


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

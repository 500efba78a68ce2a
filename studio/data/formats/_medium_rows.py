"""One medium a row: what Hugging Face's ImageFolder and AudioFolder, and plain folders, can say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from studio.data.formats import _columns
from studio.data.formats._copies import Copies
from studio.data.formats._ledger import Ledger, kind
from studio.data.formats._rows import Values, encoded, first, samples_of, values
from studio.data.formats._separated import header, rows
from studio.errors import DataError
from studio.types import Sample

METADATA = ("metadata.jsonl", "metadata.csv")
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


def splits(path: Path) -> dict[str, Path]:
    """Return the folders of the splits: those so named if there is nothing else, or all as ``train``."""
    here = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    folders = {entry.name: entry for entry in here if entry.is_dir()}
    loose = metadata(path) or any(kind(entry.name) for entry in here if entry.is_file())
    return folders if folders and folders.keys() <= set(SPLITS) and not loose else {"train": path}


def media_below(path: Path, depth: int = 1) -> Iterator[Path]:
    """Yield the media in a folder, and in its folders ``depth`` levels down, in the order of their names."""
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if depth:
                yield from media_below(entry, depth - 1)
        elif kind(entry.name):
            yield entry


def metadata(path: Path) -> Path | None:
    """Return the file of metadata in a folder, if there is one."""
    return next((path / name for name in METADATA if (path / name).is_file()), None)


def detect(path: Path, what: str) -> str | None:
    """Return why ``path`` is a folder of media of one kind with metadata, or with folders of classes."""
    if not path.is_dir():
        return None
    for split in splits(path).values():
        file = metadata(split)
        if file is not None:
            names = _names(file)
            known = {kind(name) for name in names[1]}
            if "file_name" in names[0] and known == {what}:
                return (
                    f"{file.relative_to(path)} has 'file_name', and {_columns.reason(names[0]) or 'no text'}"
                )
            continue
        folders = [entry for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        here = [file for file in split.iterdir() if file.is_file() and not file.name.startswith(".")]
        inner = [file for folder in folders for file in folder.iterdir() if file.is_file()]
        if len(folders) > 1 and not here and inner and all(kind(file.name) == what for file in inner):
            return f"{len(folders)} folders with nothing but media: their names are the answers"
    return None


def _names(file: Path) -> tuple[set[str], list[str]]:
    """Return the columns of a metadata file and the first names of files in it."""
    if file.suffix == ".csv":
        found = [
            row for _, (_, row) in zip(range(20), rows(file, ","), strict=False) if isinstance(row, dict)
        ]
    else:
        found = first(file)
    names = [row["file_name"] for row in found if isinstance(row.get("file_name"), str)]
    return {key for row in found for key in row}, names


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one folder: by its metadata, or by its classes."""
    file = metadata(path)
    if file is None:
        yield from _classes(path, ledger)
        return
    found = rows(file, ",") if file.suffix == ".csv" else values(file)
    names = header(file, ",") if file.suffix == ".csv" else _names(file)[0]
    mean = _columns.meaning(names)
    for role in ("image", "audio"):  # a column of that name tells about the file, the file is `file_name`
        if mean.get("medium") == "file_name":
            mean.pop(role, None)
    yield from samples_of(file, found, ledger, partial(_columns.decode, mean=mean), path)


def _classes(path: Path, ledger: Ledger) -> Iterator[Sample]:
    files = enumerate(media_below(path), start=1)
    found = (
        (number, {"file_name": str(file.relative_to(path)), "label": file.parent.name})
        for number, file in files
    )
    yield from samples_of(path, found, ledger, _columns.decode, path)


def encode(row: Values, name: str, what: str, answer: str) -> Values:
    """Return the metadata for a row of ours about one medium; the answer stands in the column ``answer``.

    Raises:
        DataError: if the row is not about one medium of this kind.
    """
    made: dict[str, Any] = _columns.encode(row, name, ("prompt", "answer", "system", what), beside=True)
    place = made.pop(what, "[")
    if place.startswith("["):
        raise DataError(f"this format holds one {what} a row, no less and no more")
    if "answer" in made:
        made[answer] = made.pop("answer")
    return {"file_name": place} | made


def write(
    samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger, encode: Callable[[Values], Values]
) -> int:
    """Write the media and ``metadata.jsonl`` into ``split``/; return the number of rows."""
    here = folder / split
    here.mkdir(parents=True)
    count = 0
    with open(here / "metadata.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for row in encoded(samples, Copies(here, ledger), ledger, encode):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count

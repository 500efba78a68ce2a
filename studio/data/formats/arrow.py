"""Arrow files as `datasets` saves them to disk (and its Parquet), with the rows of any tool in them.

A folder with ``state.json`` and ``data-00000-of-00001.arrow``, or with a folder of that kind for each
split. On the way in, rows are understood as whichever format of rows they look like, or as a table
(columns as in `csv`); pictures and sounds that stand in the columns as bytes are unpacked, names of
classes are looked up. On the way out, the columns are those of `parquet`, media lie beside the file, and
`datasets.load_from_disk` reads it. Nothing is lost or refused then.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.formats import _columns, alpaca, axolotl, llava, ms_swift, sharegpt, triptych, trl
from studio.data.formats._copies import Copies
from studio.data.formats._kept import kept_format
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import data_files, look
from studio.data.formats._rows import Values, encoded, first, samples_of, values
from studio.data.formats.parquet import batches
from studio.data.parquet import arrow as pyarrow
from studio.data.parquet import native, schema
from studio.types import Sample

SUFFIXES = (".arrow", ".parquet")
ROWS: dict[str, Any] = {
    "ms_swift": ms_swift, "trl": trl, "axolotl": axolotl, "llava": llava, "sharegpt": sharegpt,
    "alpaca": alpaca,
}  # fmt: skip


def splits(path: Path) -> dict[str, Path]:
    """Return the folders of the splits, or ``path`` itself."""
    if path.is_file() or (path / "state.json").is_file():
        return {"train" if path.is_dir() else path.stem: path}
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and (entry / "state.json").is_file())
    if folders:
        return {entry.name: entry for entry in folders}
    return {file.stem: file for file in data_files(path, SUFFIXES)}


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    if path.is_dir():
        for split in splits(path).values():
            if (split / "state.json").is_file():
                return f"{(split / 'state.json').relative_to(path)} is how `datasets` saves to disk"
    for file in data_files(path, SUFFIXES):
        told = [name for name, known in ROWS.items() if look(file, name, known.looks)]
        if file.suffix == ".arrow":
            return f"{file.name} is an Arrow file"
        rows = first(file)
        if rows and not told and not triptych.looks(rows[0]) and (why := _columns.reason(list(rows[0]))):
            return f"{file.name} has {why}"
    return None


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one split; the line of a sample is its number in its file."""
    files = [path] if path.is_file() else _files(path)
    for file in files:
        classes = _classes(file)
        decode = understood(first(file))
        media = path.parent if path.is_file() else path
        yield from samples_of(file, _named(values(file), classes), ledger, decode, media)


def _files(folder: Path) -> list[Path]:
    """Return the data files of a saved set, in the order that ``state.json`` gives."""
    try:
        told = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        found = [folder / Path(entry["filename"]).name for entry in told]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    return found or data_files(folder, (".arrow",))


def understood(rows: list[Values]) -> Callable[[Values, Ledger], Values]:
    """Return the reader of the format that these rows look like."""
    for row in rows:
        for name, known in ROWS.items():
            if kept_format(row) == name or (kept_format(row) is None and known.looks(row)):
                decode: Callable[[Values, Ledger], Values] = known.decode
                return decode
        if triptych.looks(row):
            return lambda row, ledger: native(row)
    mean = _columns.meaning({key for row in rows for key in row})
    return lambda row, ledger: _columns.decode(row, ledger, mean)


def _classes(file: Path) -> dict[str, list[str]]:
    """Return the names of classes by column, as `datasets` writes them into the schema of a file."""
    pa = pyarrow()
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            found = pq.read_schema(file)
        else:
            with pa.memory_map(str(file)) as source:
                found = pa.ipc.open_stream(source).schema
        features = json.loads((found.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        named = {key: feature["names"] for key, feature in features.items() if "names" in feature}
        return {key: names for key, names in named.items() if isinstance(names, list)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return {}


def _named(rows: Iterable[tuple[int, Any]], classes: dict[str, list[str]]) -> Iterator[tuple[int, Any]]:
    for number, row in rows:
        if isinstance(row, dict):
            for key, names in classes.items():
                at = row.get(key)
                if isinstance(at, int) and 0 <= at < len(names):
                    row[key] = names[at]
        yield number, row


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write the folder ``split``/ as `datasets` saves a set, with its media; return the number of rows."""
    pa = pyarrow()
    here = folder / split
    here.mkdir(parents=True)
    name, count = "data-00000-of-00001.arrow", 0
    with pa.OSFile(str(here / name), "wb") as sink, pa.ipc.new_stream(sink, schema()) as file:
        for batch in batches(encoded(samples, Copies(here, ledger), ledger, lambda row: row)):
            file.write_table(batch)
            count += batch.num_rows
    state: Values = {
        "_data_files": [{"filename": name}], "_fingerprint": secrets.token_hex(8), "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": split,
    }  # fmt: skip
    (here / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    (here / "dataset_info.json").write_text("{}", encoding="utf-8")
    known = folder / "dataset_dict.json"
    told = json.loads(known.read_text(encoding="utf-8"))["splits"] if known.is_file() else []
    known.write_text(json.dumps({"splits": [*told, split]}), encoding="utf-8")
    return count

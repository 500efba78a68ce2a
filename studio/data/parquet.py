"""Rows in Parquet and Arrow files: the same row as in JSON lines, column by column.

``messages``, ``chosen`` and ``rejected`` are lists of {role, content, loss}, ``content`` a list of {type,
text, path}. ``groups`` and ``extra`` are JSON text, because their keys differ from row to row. A null is an
absent key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.errors import DataError

BATCH = 256
"""Rows that are written at once."""
READ = 64
"""Rows that stand in memory at once when they are read; those of other tools may hold their pictures."""
_JSON = ("groups", "extra")


def arrow() -> Any:
    """Return pyarrow.

    Raises:
        DataError: if it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise DataError(
            "Parquet and Arrow files need pyarrow; install it with `pip install pyarrow`"
        ) from None
    return pyarrow


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the values of every row of a Parquet file of our own rows.

    Raises:
        DataError: if the file cannot be read as Parquet.
    """
    for number, row in enumerate(table_rows(path), start=1):
        yield number, native(row)


def parquet_row(path: Path, at: int) -> Any:
    """Return the values of row ``at``, from 0, of a Parquet file of our own rows; reads its row group.

    Raises:
        DataError: if the file cannot be read as Parquet, or has no such row.
    """
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            left = at
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if left < rows:
                    return native(file.read_row_group(group, use_threads=False).slice(left, 1).to_pylist()[0])
                left -= rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data file '{path}' cannot be read ({_reason(error)})") from None
    raise DataError(f"data file '{path}' has no row {at}")


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``.parquet`` or ``.arrow`` file (stream or file form) as Python values.

    Raises:
        DataError: if pyarrow cannot read it.
    """
    pa = arrow()
    try:
        yield from _parquet(path) if path.suffix == ".parquet" else _ipc(pa, path)
    except OSError as error:  # pyarrow tells most damage so, too
        raise DataError(f"data file '{path}' cannot be read ({_reason(error)})") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"data file '{path}' is damaged ({_reason(error)})") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=READ, use_threads=False):
            yield from batch.to_pylist()


def _ipc(pa: Any, path: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(path)) as file:
        whole = file.read(6) == b"ARROW1"
        file.seek(0)
        if whole:
            reader = pa.ipc.open_file(file)
            batches: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(file)
        for batch in batches:
            for at in range(0, batch.num_rows, READ):
                yield from batch.slice(at, READ).to_pylist()


def schema() -> Any:
    """Return the Arrow schema of our rows."""
    pa = arrow()
    part = pa.struct([(name, pa.string()) for name in ("type", "text", "path")])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(part)), ("loss", pa.bool_())])
    lists = [(name, pa.list_(message)) for name in ("messages", "chosen", "rejected")]
    texts = [(name, pa.string()) for name in ("id", "groups", "source", "license", "extra")]
    return pa.schema([*lists, *texts, ("weight", pa.float64())])


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of JSON as the values of the columns of `schema`."""
    made = dict(row)
    for name in ("messages", "chosen", "rejected"):
        if name in row:
            made[name] = [message | {"content": _listed(message["content"])} for message in row[name]]
    return made | {name: json.dumps(row[name], ensure_ascii=False) for name in _JSON if name in row}


def native(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of JSON that the columns stand for; null values fall away."""
    made = {name: value for name, value in row.items() if value is not None}
    for name in _JSON:
        if isinstance(made.get(name), str):
            try:
                made[name] = json.loads(made[name])
            except (ValueError, RecursionError):
                continue  # the reader says that it is no object
    if isinstance(made.get("groups"), dict):
        made["groups"] = {name: value for name, value in made["groups"].items() if value is not None}
    for name in ("messages", "chosen", "rejected"):
        if name in made:
            made[name] = full(made[name])
    return made


def full(value: Any) -> Any:
    """Return ``value`` without the null members of its objects, at any depth."""
    if isinstance(value, dict):
        return {name: full(inner) for name, inner in value.items() if inner is not None}
    return [full(inner) for inner in value] if isinstance(value, list) else value


def _listed(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")

"""axolotl's rows: messages of typed parts, each medium by ``path`` or ``base64``, and ``train`` by message.

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "media/1.png"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "A carpet."}], "train": true}]}

Set ``message_field_training: train`` where a conversion wrote ``train``. A preference has one message in
``chosen`` and one in ``rejected``. Kept under the key ``triptych``: groups and weight. Refused: longer
ways to go on; on the way in video, media by ``url`` (nothing is downloaded) and ``tools``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.formats._kept import keep, restore
from studio.data.formats._ledger import Ledger, decoded
from studio.data.formats._look import look
from studio.data.formats._rows import SUFFIXES as SUFFIXES
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.data.formats._tags import TAGS, listed
from studio.data.formats._values import messages, no_more, path, plain, refuse
from studio.errors import DataError
from studio.types import Sample

REFUSED = {"tools": "tools"}
KEYS = ("messages", "chosen", "rejected", *REFUSED)
_PLACES = ("path", "url", "image", "audio")
_TRAIN = ("train", "training")


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    said = row.get("messages")
    for message in said if isinstance(said, list) else ():
        if not isinstance(message, dict):
            continue
        if any(isinstance(message.get(key), bool) for key in _TRAIN):
            return "the messages have 'train'"
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in TAGS:
                given = [key for key in ("url", "base64", "image", "audio") if part.get(key) is not None]
                if given:
                    return f"the messages have typed parts with '{given[0]}'"
    return None


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "axolotl", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, decode)


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    made: Values = {"messages": _turns(row.pop("messages", None), "messages", ledger)}
    for key in ("chosen", "rejected"):
        if (way := row.pop(key, None)) is not None:
            made[key] = _turns(way if isinstance(way, list) else [way], key, ledger)
    return restore(row, made)


def _turns(value: Any, key: str, ledger: Ledger) -> list[Values]:
    made = []
    for at, (role, content, rest) in enumerate(messages(value, key)):
        message: Values = {"role": role, "content": content}
        if isinstance(content, list):
            where = f"{key}[{at}].content"
            message["content"] = [_part(part, f"{where}[{i}]", ledger) for i, part in enumerate(content)]
        for name in _TRAIN:
            if name in rest:
                message["loss"] = rest.pop(name)
        no_more(rest, f"{key}[{at}]")
        made.append(message)
    return made


def _part(part: Any, where: str, ledger: Ledger) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in TAGS:
        return part  # text, or something that the reader of rows names
    if part.get("base64") is not None:
        return {"type": kind, "path": ledger.spill(decoded(plain(part["base64"], f"{where}.base64")))}
    given = [key for key in _PLACES if part.get(key) is not None]
    if not given:
        raise DataError(f"{where}: a part of type '{kind}' needs 'path' or 'base64'")
    return {"type": kind, "path": path(part[given[0]], f"{where}.{given[0]}", ledger)}


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    made: Values = {"messages": [_said(message) for message in row["messages"]]}
    for key in ("chosen", "rejected"):
        if key in row:
            if len(row[key]) > 1:
                raise DataError(f"'{key}' has {len(row[key])} messages; this format holds one")
            made[key] = _said(row[key][0])
    return keep(row, "axolotl", made, KEYS, {"cuts", "loss"})


def _said(message: Values) -> Values:
    made = {"role": message["role"], "content": listed(message["content"])}
    return made if message.get("loss", True) else made | {"train": False}


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl and its media; return the number of rows."""
    return write_rows(samples, folder, split, ledger, encode)

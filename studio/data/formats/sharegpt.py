"""LLaMA-Factory's ShareGPT rows: conversations of human and gpt, tags for media.

    {"conversations": [{"from": "human", "value": "<image>What is this?"},
                       {"from": "gpt", "value": "A carpet."}],
     "system": "You are brief.", "images": ["media/1.png"], "audios": [], "chosen": {...}, "rejected": {...}}

``dataset_info.json`` beside the file may rename columns and tags. Kept under the key ``triptych``: groups,
weight, loss by turn, the borders of texts that stand side by side. Refused: messages that do not alternate
from a user's on, more than one message in ``chosen`` or ``rejected``, a text that holds a tag; on the way
in ``videos``, ``tools``, ``kto_tag`` and the roles of tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.formats._kept import keep, restore
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import INFO, info, look
from studio.data.formats._rows import SUFFIXES as SUFFIXES
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.data.formats._tags import Part, Pool, listed, tagged
from studio.data.formats._values import messages, paths, plain, refuse, text
from studio.errors import DataError
from studio.types import Sample

REFUSED = {"videos": "videos", "tools": "tools", "kto_tag": "an answer marked good or bad without its rival"}
COLUMNS = {name: name for name in ("system", "images", "audios", "chosen", "rejected", *REFUSED)} | {
    "messages": "conversations"
}
TAGS = {"role_tag": "from", "content_tag": "value"}
_SPEAKERS = {"user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}
FROM = {"user": "human", "assistant": "gpt"}


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    if not isinstance(row.get("conversations"), list) or "image" in row:
        return None
    return "the rows have 'conversations'"


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "sharegpt", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    entry = info(path)
    columns, tags = renamed(entry, "columns", COLUMNS), renamed(entry, "tags", TAGS)
    roles = {tags[tag]: role for tag, role in _SPEAKERS.items() if tag in tags}
    return read_rows(path, ledger, lambda row, ledger: decode(named(row, columns, roles, tags), ledger))


def renamed(entry: Values, part: str, standard: dict[str, str]) -> dict[str, str]:
    """Return the names that ``dataset_info.json`` gives to columns or tags, over the standard ones.

    Raises:
        DataError: if they are no names.
    """
    found = entry.get(part, {})
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise DataError(f"{INFO}: '{part}' must be an object with strings as values")
    return standard | found


def named(row: Values, columns: dict[str, str], roles: dict[str, str], tags: dict[str, str]) -> Values:
    """Return the row with the standard names for its columns, message keys and roles."""
    made = dict(row)
    for standard, name in columns.items():
        want = COLUMNS.get(standard, standard)
        if name != want and name in made:
            made[want] = made.pop(name)
    keys = {tags["role_tag"]: "from", tags["content_tag"]: "value"}

    def message(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = {keys.get(key, key): inner for key, inner in value.items()}
        if isinstance(value.get("from"), str):
            value["from"] = roles.get(value["from"], value["from"])
        return value

    for key in ("conversations", "chosen", "rejected"):
        if isinstance(made.get(key), list):
            made[key] = [message(value) for value in made[key]]
        elif key in made:
            made[key] = message(made[key])
    return made


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    pool = Pool(image=paths(row, "images", ledger), audio=paths(row, "audios", ledger))
    made: Values = {"messages": []}
    if system := text(row, "system", ""):
        made["messages"].append({"role": "system", "content": system})
    for at, (role, value, _) in enumerate(
        messages(row.pop("conversations", None), "conversations", *TAGS.values())
    ):
        content = pool.parts(plain(value, f"conversations[{at}]"))
        made["messages"].append({"role": role, "content": content})
    for key in ("chosen", "rejected"):
        if row.get(key) is not None:
            ((role, value, _),) = messages([row.pop(key)], key, *TAGS.values())
            made[key] = [{"role": role, "content": plain(value, key)}]
    pool.settle()
    return restore(row, made)


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    said, system, media = spoken(row["messages"])
    made: Values = {"conversations": [{"from": FROM[role], "value": value} for role, value in said]}
    if system:
        made["system"] = system
    made |= {name: media[kind] for kind, name in (("image", "images"), ("audio", "audios")) if media[kind]}
    for key in ("chosen", "rejected"):
        if key in row:
            made[key] = {"from": "gpt", "value": only(row[key], key)}
    return keep(row, "sharegpt", made, (*COLUMNS.values(), *TAGS))


def spoken(rows: list[Values]) -> tuple[list[tuple[str, str]], str, dict[str, list[str]]]:
    """Return the alternating turns as (role, tagged text), the system's text, and the media by kind.

    Raises:
        DataError: if user and assistant do not alternate, the user first.
    """
    parts = [(message["role"], listed(message["content"])) for message in rows]
    system = sole_text(parts.pop(0)[1]) if parts[0][0] == "system" else ""
    for at, (role, _) in enumerate(parts):
        if role != ("assistant" if at % 2 else "user"):
            raise DataError("user and assistant must alternate in this format, the user first")
    media: dict[str, list[str]] = {"image": [], "audio": []}
    for _, content in parts:
        for part in content:
            if part["type"] != "text":
                media[part["type"]].append(part["path"])
    return [(role, tagged(content)) for role, content in parts], system, media


def sole_text(parts: list[Part]) -> str:
    """Return the text of a system's message.

    Raises:
        DataError: if it holds a medium.
    """
    if any(part["type"] != "text" for part in parts):
        raise DataError("the system's message holds a medium; this format has text there")
    return "".join(part["text"] for part in parts)


def only(turns: list[Values], key: str) -> str:
    """Return the text of the one message of ``chosen`` or ``rejected``.

    Raises:
        DataError: if there are more.
    """
    if len(turns) > 1:
        raise DataError(f"'{key}' has {len(turns)} messages; this format holds one")
    return tagged(listed(turns[0]["content"]))


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl, its media, and an entry in ``dataset_info.json``; return the number of rows."""
    seen: set[str] = set()  # LLaMA-Factory stumbles over a column that is named and not there

    def one(row: Values) -> Values:
        made = encode(row)
        seen.update(made)
        return made

    count = write_rows(samples, folder, split, ledger, one)
    columns = {key: name for key, name in COLUMNS.items() if name in seen}
    describe(folder, split, {"formatting": "sharegpt", "ranking": "chosen" in seen, "columns": columns})
    return count


def describe(folder: Path, split: str, entry: Values) -> None:
    """Add an entry for a file to ``dataset_info.json``."""
    file = folder / INFO
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known[split] = {"file_name": f"{split}.jsonl", **entry}
    file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

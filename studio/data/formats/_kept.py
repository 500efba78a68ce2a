"""What another tool's row cannot say, kept in one more key of it, as JSON text.

The key is ``triptych``; other tools leave keys alone that they do not know. It is text rather than an object,
because tools that read columns want one type in all rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from studio.data.formats._rows import KEY, Values
from studio.data.formats._tags import cut, listed, recut
from studio.errors import DataError

NAMES = ("source", "license", "id")
_ABOUT = ("groups", "weight")


def keep(
    row: Values,
    name: str,
    made: Values,
    keys: Collection[str],
    said: Collection[str] = (),
    *,
    beside: bool = True,
    **more: Any,
) -> Values:
    """Return ``made`` with all that it leaves unsaid of ``row``.

    ``source``, ``license`` and ``id`` stand under these names, members of ``extra`` under their own, where
    nothing else does.

    Args:
        row: a row of ours.
        name: the format that ``made`` is a row of.
        made: its row.
        keys: all keys that the format's reader knows.
        said: which of ``loss`` and ``cuts`` the format says by itself.
        beside: whether members of ``extra`` may become keys of the row.
        more: what else its reader wants to find with `kept`.
    """
    kept: Values = {key: row[key] for key in _ABOUT if key in row} | more
    cuts, quiet = _unsaid(row)
    if cuts and "cuts" not in said:
        kept["cuts"] = cuts
    if quiet and "loss" not in said:
        kept["quiet"] = quiet
    full = made | {key: row[key] for key in NAMES if key in row}
    inside: Values = {}
    for key, value in row.get("extra", {}).items():
        hidden = (
            not beside
            or value is None
            or key in full
            or key.lower() in keys
            or key in NAMES
            or key in (KEY, "")
        )
        (inside if hidden else full)[key] = value
    if inside:
        kept["extra"] = inside
    if kept:
        full[KEY] = json.dumps({"format": name, **kept}, ensure_ascii=False)
    return full


def _unsaid(row: Values) -> tuple[Values, Values]:
    """Return the cuts between neighbouring texts and the turns without loss, by list and position."""
    cuts: Values = {}
    quiet: Values = {}
    for key in ("messages", "chosen", "rejected"):
        for at, message in enumerate(row.get(key, ())):
            marks = cut(listed(message["content"]))
            if marks is not None:
                cuts.setdefault(key, {})[str(at)] = marks
            if message.get("loss") is False:
                quiet.setdefault(key, []).append(at)
    return cuts, quiet


def kept(row: Values) -> Values:
    """Return what a conversion kept in the row; {} if there is nothing."""
    try:
        found = json.loads(row[KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def kept_format(row: Values) -> str | None:
    """Return the format that the row says it was written as."""
    name = kept(row).get("format")
    return name if isinstance(name, str) else None


def restore(row: Values, made: Values) -> Values:
    """Return ``made``, a row of ours, with what was kept in ``row`` and the keys nobody knew as ``extra``.

    ``row`` must hold only what is left over after its format took what it knows.

    Raises:
        DataError: if what was kept cannot be read.
    """
    left = {key: value for key, value in row.items() if value is not None}
    told = left.pop(KEY, None)
    mine: Values = {}
    if told is not None:
        try:
            found = json.loads(told) if isinstance(told, str) else told
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise DataError(f"'{KEY}' must be an object as JSON text, as the conversion wrote it")
        mine = found
    full = made | {key: mine[key] for key in _ABOUT if key in mine}
    for key in NAMES:
        if isinstance(left.get(key), str) and left[key]:
            full[key] = left.pop(key)
    inside = mine.get("extra", {})
    if extra := {**left, **(inside if isinstance(inside, dict) else {})}:
        full["extra"] = extra
    for key, places in _objects(mine.get("cuts")):
        for at, marks in _objects(places):
            message = _message(full, key, at)
            if message is not None:
                message["content"] = recut(listed(message["content"]), marks)
    for key, places in _objects(mine.get("quiet")):
        for at in places if isinstance(places, list) else ():
            message = _message(full, key, at)
            if message is not None:
                message["loss"] = False
    return full


def _objects(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _message(row: Values, key: str, at: Any) -> Values | None:
    messages = row.get(key)
    place = int(at) if isinstance(at, int) or (isinstance(at, str) and at.isdigit()) else -1
    if not isinstance(messages, list) or not 0 <= place < len(messages):
        return None
    message: Values = messages[place]
    return message

"""Reading the keys of another tool's row, with one sentence where it is not what its documentation says."""

from __future__ import annotations

from typing import Any

from studio.data.formats._ledger import Held, Ledger, decoded
from studio.data.formats._rows import Values
from studio.errors import DataError, unknown

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def refuse(row: Values, keys: dict[str, str]) -> None:
    """Refuse a row with a key that would change what is learned and that we cannot follow.

    Args:
        row: another tool's row.
        keys: what each such key means; a value that is empty is let through.

    Raises:
        DataError: naming the key.
    """
    for key, meaning in keys.items():
        if row.get(key) is not None and row[key] not in ([], "", {}, "[]"):
            raise DataError(f"'{key}' ({meaning}) cannot be taken over; take it out of the row")
        row.pop(key, None)


def text(row: Values, key: str, default: str | None = None) -> str:
    """Take a text out of the row.

    Raises:
        DataError: if it is missing without a default, or no text.
    """
    value = row.pop(key, None)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise DataError(f"'{key}' must be a string" if value is not None else f"'{key}' is missing")
    return value


def paths(row: Values, key: str, ledger: Ledger) -> list[str]:
    """Take the paths of media out of the row: one or a list; bytes are unpacked.

    Raises:
        DataError: if there is something else.
    """
    value = row.pop(key, None)
    many = value if isinstance(value, list) else [] if value is None else [value]
    return [path(one, key, ledger) for one in many]


def path(value: Any, key: str, ledger: Ledger) -> str:
    """Return the path of one medium: text, ``data:`` text, bytes, or an object with ``path`` or ``bytes``.

    Raises:
        DataError: if it is something else.
    """
    name = ""
    if isinstance(value, Held):
        return value
    if isinstance(value, dict):
        told = value.get("path")
        name = told if isinstance(told, str) else ""
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path", value.get("url"))
    if isinstance(value, bytes):
        return ledger.spill(value, name)
    if isinstance(value, str) and value.startswith("data:"):
        return ledger.spill(decoded(value))
    if not isinstance(value, str):
        raise DataError(f"'{key}' must be the path of a file, or a list of such")
    return value.removeprefix("file://")


def messages(
    value: Any, key: str, role: str = "role", content: str = "content"
) -> list[tuple[str, Any, Values]]:
    """Return role, content and what else is said of every message.

    Args:
        value: the list.
        key: its name, for the sentence.
        role: the key under which a message says who speaks; ``human`` and ``gpt`` are understood.
        content: the key of what is said.

    Raises:
        DataError: if it is no list of such messages.
    """
    if not isinstance(value, list):
        raise DataError(f"'{key}' must be a list of messages")
    made = []
    for at, message in enumerate(value):
        if not isinstance(message, dict) or role not in message or message.get(content) is None:
            raise DataError(f"{key}[{at}] must be an object with '{role}' and '{content}'")
        rest = {k: v for k, v in message.items() if k not in (role, content) and v is not None}
        said = message[role]
        if not isinstance(said, str) or said not in ROLES:
            raise DataError(f"{key}[{at}]: {unknown('role', str(said), ROLES)}")
        made.append((ROLES[said], message[content], rest))
    return made


def plain(value: Any, where: str) -> str:
    """Return ``value`` if it is a text.

    Raises:
        DataError: if it is something else.
    """
    if not isinstance(value, str):
        raise DataError(f"{where} must be a string")
    return value


def no_more(rest: Values, where: str) -> None:
    """Refuse what a message says beyond what its format knows.

    Raises:
        DataError: naming the first such key.
    """
    if rest:
        raise DataError(f"{where}: '{min(rest)}' cannot be taken over; take it out of the message")

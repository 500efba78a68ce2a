"""One row of a data file, as JSON and as a `Sample`.

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "media/1.png"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A carpet."}],
     "groups": {"operator": "A"}, "weight": 1.0}

``content`` is a string or a list of parts; ``groups``, ``weight`` and a message's ``loss`` may be
left out. Any other key is an error: a misspelt key would otherwise be ignored in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import DataError, unknown
from studio.types import Image, Part, Sample, Sound, Text, Turn

ROLES = ("system", "user", "assistant")
_PAYLOAD = {"text": "text", "image": "path", "audio": "path"}
_ROW_KEYS = frozenset({"messages", "groups", "weight"})
_TURN_KEYS = frozenset({"role", "content", "loss"})


class Folder:
    """The folder that media paths are relative to and may not leave; symbolic links are followed."""

    def __init__(self, path: Path) -> None:
        """Stand in the folder at ``path``."""
        self.root = os.path.realpath(path)
        self._known: dict[str, str] = {}

    def resolve(self, name: str) -> Path:
        """Return the absolute path of ``name`` without links.

        Raises:
            DataError: if it is absolute or leads out of the folder.
        """
        if not name or "\0" in name:
            raise DataError("a media path is empty or holds a zero byte")
        if os.path.isabs(name):
            raise DataError(f"media path '{name}' is absolute; allowed: paths relative to the data file")
        above, leaf = os.path.split(name)
        parent = self._known.get(above)
        if parent is None:
            parent = self._known[above] = os.path.realpath(os.path.join(self.root, above))
        full = os.path.join(parent, leaf)
        if leaf in ("", ".", "..") or os.path.islink(full):
            full = os.path.realpath(full)
        if not full.startswith(self.root.rstrip(os.sep) + os.sep):
            raise DataError(f"media path '{name}' leads out of the data file's folder")
        return Path(full)


def read_row(line: str, folder: Folder, file: Path, number: int) -> Sample:
    """Return the sample that one line of JSON describes.

    Raises:
        DataError: one sentence about the first thing that is wrong, without file and line.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError):
        raise DataError("not valid JSON (too deep, or a number is too long)") from None
    _keys(row, _ROW_KEYS, "row")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError("'messages' must be a list with at least one message")
    turns = tuple(_turn(message, folder, at) for at, message in enumerate(messages))
    if not any(turn.role == "user" for turn in turns):
        raise DataError("no message has the role 'user'")
    groups = row.get("groups")
    return Sample(
        turns=turns,
        file=file,
        line=number,
        groups={} if groups is None else _groups(groups),
        weight=_weight(row.get("weight", 1.0)),
    )


def row_of(sample: Sample, folder: Path) -> dict[str, Any]:
    """Return the JSON row of ``sample``, its media paths relative to ``folder``.

    Raises:
        DataError: if a medium lies outside ``folder``.
    """
    root = os.path.realpath(folder)
    messages = []
    for turn in sample.turns:
        only_text = len(turn.parts) == 1 and isinstance(turn.parts[0], Text)
        content: Any = (
            turn.text if only_text else [_part_row(part, root, sample.where) for part in turn.parts]
        )
        message = {"role": turn.role, "content": content}
        messages.append(message if turn.loss else message | {"loss": False})
    row: dict[str, Any] = {"messages": messages}
    if sample.groups:
        row["groups"] = dict(sample.groups)
    if sample.weight != 1.0:
        row["weight"] = sample.weight
    return row


def _part_row(part: Part, root: str, where: str) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    full = os.path.realpath(part.path)
    if not full.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(f"{where}: '{part.path}' lies outside the data file's folder '{root}'")
    kind = "image" if isinstance(part, Image) else "audio"
    return {"type": kind, "path": Path(os.path.relpath(full, root)).as_posix()}


def _turn(message: Any, folder: Folder, at: int) -> Turn:
    _keys(message, _TURN_KEYS, f"messages[{at}]")
    role, content, loss = message.get("role"), message.get("content"), message.get("loss", True)
    if role not in ROLES:
        raise DataError(unknown("role", str(role), ROLES))
    if role == "system" and at:
        raise DataError(f"messages[{at}]: only the first message may have the role 'system'")
    if not isinstance(loss, bool):
        raise DataError(f"messages[{at}]: 'loss' must be true or false")
    if isinstance(content, str):
        parts: tuple[Part, ...] = (Text(text=_text(content)),)
    elif isinstance(content, list):
        parts = tuple(_part(part, folder, f"messages[{at}].content[{i}]") for i, part in enumerate(content))
    else:
        raise DataError(f"messages[{at}]: 'content' must be a string or a list of parts")
    if not any(not isinstance(part, Text) or part.text for part in parts):
        raise DataError(f"messages[{at}] is empty")
    if role == "assistant" and not all(isinstance(part, Text) for part in parts):
        raise DataError(f"messages[{at}]: an assistant's content is text; media stand in the user's messages")
    return Turn(role=role, parts=parts, loss=loss)


def _part(part: Any, folder: Folder, where: str) -> Part:
    if not isinstance(part, dict):
        raise DataError(f'{where} must be an object such as {{"type": "text", "text": "..."}}')
    kind = part.get("type")
    payload = _PAYLOAD.get(kind) if isinstance(kind, str) else None
    if payload is None:
        raise DataError(unknown("part type", str(kind), _PAYLOAD))
    if len(part) != 2 or payload not in part:
        _keys(part, frozenset({"type", payload}), where)
        raise DataError(f"{where}: a part of type '{kind}' needs '{payload}'")
    value = part[payload]
    if not isinstance(value, str):
        raise DataError(f"{where}: '{payload}' must be a string")
    _text(value)
    if kind == "text":
        return Text(text=value)
    path = folder.resolve(value)
    return Image(path=path) if kind == "image" else Sound(path=path)


def _keys(value: Any, allowed: frozenset[str], where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object with the keys {', '.join(sorted(allowed))}")
    if strange := value.keys() - allowed:
        raise DataError(unknown("key", min(strange), allowed))


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError("a text holds half of a surrogate pair, which no encoding can store") from None
    return value


def _groups(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise DataError("'groups' must be an object with strings as values")
    for text in (*value, *value.values()):
        _text(text)
    return value


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError("'weight' must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise DataError(f"'weight' must be a finite number above 0, not {number}")
    return number

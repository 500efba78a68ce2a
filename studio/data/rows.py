"""One row of a data file, as JSON and as a `Sample`; ``schema.json`` beside this file says the same.

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "media/1.png"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A carpet.", "loss": true}],
     "id": "17", "groups": {"operator": "A"}, "weight": 1.0, "source": "line 4", "license": "CC-BY-4.0"}

``content`` is a string or a list of parts. A row to learn a preference from ends its ``messages`` with
the user and goes on twice, with the messages of ``chosen`` and those of ``rejected``: text that the assistant
begins. All but ``messages`` may be left out. ``extra`` is an object for whatever else must be kept; any other
key is an error: a misspelt key would otherwise be ignored in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.errors import DataError, unknown
from studio.types import Image, Part, Sample, Sound, Text, Turn

ROLES = ("system", "user", "assistant")
_PAYLOAD = {"text": "text", "image": "path", "audio": "path"}
_NAMES = ("source", "license", "id")
_ROW_KEYS = frozenset({"messages", "chosen", "rejected", "groups", "weight", "extra", *_NAMES})
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
    return sample_of(row, folder, file, number)


def sample_of(row: Any, folder: Folder, file: Path, number: int) -> Sample:
    """Return the sample that a row of JSON values describes.

    Raises:
        DataError: one sentence about the first thing that is wrong, without file and line.
    """
    _keys(row, _ROW_KEYS, "row")
    turns = _turns(row.get("messages"), folder, "messages")
    if not any(turn.role == "user" for turn in turns):
        raise DataError("no message has the role 'user'")
    more: dict[str, Any] = {}
    if len(row) > 1:  # most rows of most sets are messages and nothing else
        if "chosen" in row or "rejected" in row:
            more = _preference(row, turns, folder)
        if row.get("groups") is not None:
            more["groups"] = _groups(row["groups"])
        if "weight" in row:
            more["weight"] = _weight(row["weight"])
        more |= {name: _name(row[name], name) for name in _NAMES if name in row}
        if "extra" in row:
            more["extra"] = _extra(row["extra"])
    return Sample(turns=turns, file=file, line=number, **more)


def row_of(sample: Sample, folder: Path) -> dict[str, Any]:
    """Return the JSON row of ``sample``, its media paths relative to ``folder``.

    Raises:
        DataError: if a medium lies outside ``folder``.
    """
    root = os.path.realpath(folder)
    row: dict[str, Any] = {"messages": _messages(sample.turns, root, sample.where)}
    if sample.chosen or sample.rejected:
        row["chosen"] = _messages(sample.chosen, root, sample.where)
        row["rejected"] = _messages(sample.rejected, root, sample.where)
    if sample.groups:
        row["groups"] = dict(sample.groups)
    if sample.weight != 1.0:
        row["weight"] = sample.weight
    row |= {name: value for name in _NAMES if (value := getattr(sample, name))}
    if sample.extra:
        row["extra"] = dict(sample.extra)
    return row


def _messages(turns: Sequence[Turn], root: str, where: str) -> list[dict[str, Any]]:
    messages = []
    for turn in turns:
        only_text = len(turn.parts) == 1 and isinstance(turn.parts[0], Text)
        content: Any = turn.text if only_text else [_part_row(part, root, where) for part in turn.parts]
        message = {"role": turn.role, "content": content}
        messages.append(message if turn.loss else message | {"loss": False})
    return messages


def _part_row(part: Part, root: str, where: str) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    full = os.path.realpath(part.path)
    if not full.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(f"{where}: '{part.path}' lies outside the data file's folder '{root}'")
    kind = "image" if isinstance(part, Image) else "audio"
    return {"type": kind, "path": Path(os.path.relpath(full, root)).as_posix()}


def _turns(messages: Any, folder: Folder, name: str) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"'{name}' must be a list with at least one message")
    return tuple([_turn(message, folder, name, at) for at, message in enumerate(messages)])


def _preference(row: dict[str, Any], turns: tuple[Turn, ...], folder: Folder) -> dict[str, Any]:
    """Return the two ways on, if they can follow ``turns``."""
    if lone := {"chosen", "rejected"} - row.keys():
        raise DataError(f"'{min(lone)}' is missing; 'chosen' and 'rejected' stand together")
    if turns[-1].role != "user":
        raise DataError("'messages' must end with the user where 'chosen' and 'rejected' go on")
    ways = {name: _turns(row[name], folder, name) for name in ("chosen", "rejected")}
    for name, way in ways.items():
        if way[0].role != "assistant":
            raise DataError(f"{name}[0] must have the role 'assistant'")
        for at, turn in enumerate(way):
            if turn.role == "system":
                raise DataError(f"{name}[{at}]: only the first of 'messages' may have the role 'system'")
            if not all(isinstance(part, Text) for part in turn.parts):
                raise DataError(f"{name}[{at}]: '{name}' is text; media stand in 'messages'")
    return ways


def _turn(message: Any, folder: Folder, name: str, at: int) -> Turn:
    where = f"{name}[{at}]"
    _keys(message, _TURN_KEYS, where)
    role, content, loss = message.get("role"), message.get("content"), message.get("loss", True)
    if role not in ROLES:
        raise DataError(f"{where}: {unknown('role', str(role), ROLES)}")
    if role == "system" and at:
        raise DataError(f"{where}: only the first message may have the role 'system'")
    if not isinstance(loss, bool):
        raise DataError(f"{where}: 'loss' must be true or false")
    if isinstance(content, str):
        parts: tuple[Part, ...] = (Text(text=_text(content)),)
    elif isinstance(content, list):
        parts = tuple([_part(part, folder, f"{where}.content[{i}]") for i, part in enumerate(content)])
    else:
        raise DataError(f"{where}: 'content' must be a string or a list of parts")
    if not any(not isinstance(part, Text) or part.text for part in parts):
        raise DataError(f"{where} is empty")
    if role == "assistant" and not all(isinstance(part, Text) for part in parts):
        raise DataError(f"{where}: an assistant's content is text; media stand in the user's messages")
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


def _name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"'{key}' must be a string that is not empty")
    return _text(value)


def _extra(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError("'extra' must be an object")
    try:
        _text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except DataError:
        raise
    except (ValueError, RecursionError):
        raise DataError("'extra' is too deep, or holds a number that is not finite") from None
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

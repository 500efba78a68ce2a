"""What is found in a row by itself: answers and tags; and reading rows without stopping at a wrong one."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.rows import Folder, read_row
from studio.errors import DataError
from studio.types import Sample

#: A longer line, in bytes, is refused before it is parsed.
LONGEST_LINE = 64 << 20
_TAG = re.compile(r"<(image|audio|sound|video)>|<\|(image|audio|video)(?:_pad)?\|>", re.IGNORECASE)
_KIND = {"image": "picture", "audio": "sound", "sound": "sound", "video": "video"}


def read_rows(path: Path) -> Iterator[Sample | Finding]:
    """Yield each row of a data file as a sample, or as the finding that says why it is none.

    Raises:
        DataError: if the file cannot be opened.
    """
    path = Path(os.path.abspath(path))
    folder = Folder(path.parent)
    try:
        with open(path, "rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    yield _wrong(path, number, kinds.ROW, f"the line has more than {LONGEST_LINE} bytes")
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(LONGEST_LINE)
                elif raw.strip():
                    yield _read(raw, folder, path, number)
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read ({error.strerror})") from None


def _read(raw: bytes, folder: Folder, path: Path, number: int) -> Sample | Finding:
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        return read_row(line, folder, path, number)
    except UnicodeDecodeError as error:
        return _wrong(path, number, kinds.ROW, f"not UTF-8 at byte {error.start + 1} of the line")
    except DataError as error:
        return _wrong(path, number, _kind_of(raw, folder), str(error))


def _wrong(path: Path, number: int, kind: kinds.Kind, message: str) -> Finding:
    return Finding(row=number, file=path, kind=kind.name, message=message)


def _kind_of(raw: bytes, folder: Folder) -> kinds.Kind:
    """Return which kind a wrong row is of: a path out of the folder, an empty answer, or no row."""
    try:
        contents = [(message["role"], message["content"]) for message in json.loads(raw)["messages"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return kinds.ROW
    parts = [part for _, content in contents if isinstance(content, list) for part in content]
    if any(_outside(part.get("path"), folder) for part in parts if isinstance(part, dict)):
        return kinds.PATH
    said = [content for role, content in contents if role == "assistant"]
    return kinds.EMPTY_ANSWER if any(content in ("", []) for content in said) else kinds.ROW


def _outside(name: Any, folder: Folder) -> bool:
    if not isinstance(name, str):
        return False
    try:
        folder.resolve(name)
    except (DataError, ValueError, OSError):
        return True
    return False


def answers(sample: Sample) -> Iterator[tuple[kinds.Kind, str]]:
    """Yield what is wrong with the turns that are learned."""
    turns = (*sample.turns, *sample.chosen, *sample.rejected)
    learned = [turn.text.strip() for turn in turns if turn.role == "assistant" and turn.loss]
    if not learned:
        yield kinds.NO_ANSWER, "no assistant turn to learn; end the row with the wanted answer"
    elif not all(learned):
        yield kinds.EMPTY_ANSWER, "the assistant's answer is empty; write what it should say"


def tags(sample: Sample) -> Iterator[tuple[kinds.Kind, str]]:
    """Yield a finding where the text asks for media by tags: media are parts of their own here."""
    said: Counter[str] = Counter()
    for turn in sample.turns:
        for tag in _TAG.finditer(turn.text):
            said[_KIND[(tag[1] or tag[2]).lower()]] += 1
    there = {"picture": len(sample.images), "sound": len(sample.sounds), "video": 0}
    for kind, count in said.items():
        plural = "s" if there[kind] != 1 else ""
        yield (
            kinds.TAGS,
            f"the text has {count} tags for a {kind}, the row has {there[kind]} {kind}{plural} as parts; "
            "media are parts, not tags",
        )

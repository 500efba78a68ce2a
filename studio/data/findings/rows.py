"""What is found in a row by itself: answers and tags; and reading rows without stopping at a wrong one."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.jsonl import text_lines
from studio.data.parquet import parquet_rows
from studio.data.rows import Folder, read_row, sample_of
from studio.errors import DataError
from studio.types import Sample

_TAG = re.compile(r"<(image|audio|sound|video)>|<\|(image|audio|video)(?:_pad)?\|>", re.IGNORECASE)
_KIND = {"image": "picture", "audio": "sound", "sound": "sound", "video": "video"}


def read_rows(path: Path) -> Iterator[Sample | Finding]:
    """Yield each row of a data file as a sample, or as the finding that says why it is none.

    Raises:
        DataError: if the file cannot be opened.
    """
    path = Path(os.path.abspath(path))
    folder = Folder(path.parent)
    table = path.suffix == ".parquet"
    rows: Iterable[tuple[int, Any]] = parquet_rows(path) if table else text_lines(path)
    try:
        for number, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                yield (sample_of if table else read_row)(row, folder, path, number)
            except DataError as error:
                kind = _kind_of(row, folder)
                yield Finding(row=number, file=path, kind=kind.name, message=str(error))
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read ({error.strerror})") from None


def _kind_of(row: Any, folder: Folder) -> kinds.Kind:
    """Return which kind a wrong row is of: a path out of the folder, an empty answer, or no row."""
    try:
        values = json.loads(row) if isinstance(row, str) else row
        contents = [(message["role"], message["content"]) for message in values["messages"]]
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

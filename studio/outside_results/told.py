"""What outside results are read into, and how numbers and lines of unknown origin are looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from studio.errors import DataError

#: No result file is larger; a file is read as a whole.
_LARGEST = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One model's answer to one question; ``scores`` are the other tool's of this answer."""

    variant: str
    domain: str
    where: str
    prompt: str
    reference: str
    output: str
    groups: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A score of a whole domain as it is told; ``stderr`` and ``n`` are None where they are not."""

    variant: str
    domain: str
    metric: str
    value: float
    stderr: float | None = None
    n: int | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What was found, and in which format."""

    format: str
    answers: tuple[Answer, ...] = ()
    figures: tuple[Figure, ...] = ()


def number(value: Any, where: str) -> float:
    """Return a number that is one and finite.

    Raises:
        DataError: it is none, or too large to be one.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        shown = repr(value)
        raise DataError(f"{where}: {shown if len(shown) < 40 else shown[:36] + '...'} is no finite number")
    return found


def is_number(value: Any) -> bool:
    """Return whether JSON means a number by this; not for a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(value: Any) -> str:
    """Return what a field says as text: of a list the first entry, nothing for None."""
    if isinstance(value, list):
        return text(value[0]) if value else ""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def mapping(file: Path) -> Mapping[str, Any]:
    """Return a JSON file's object; `DataError` if it is none."""
    found = _json(_read(file), str(file))
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no JSON object")
    return found


def rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``file:line`` and the object of each line that is not blank; `DataError` if one is none."""
    for line, told in enumerate(_read(file).split("\n"), 1):
        if told.strip():
            found = _json(told, f"{file}:{line}")
            if not isinstance(found, dict):
                raise DataError(f"{file}:{line} is no JSON object")
            yield f"{file}:{line}", found


def peek(file: Path) -> Mapping[str, Any]:
    """Return the first line's object of a .jsonl file, or a .json file's; nothing where it is none."""
    try:
        if file.suffix == ".json":
            told = _read(file)
        else:
            with file.open(encoding="utf-8-sig") as held:
                told = next((line for line in held if line.strip()), "")
        found = json.loads(told)
    except (DataError, OSError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def field_of(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Return a field that must be there; `DataError` if it is not."""
    if name not in row:
        raise DataError(f"{where}: there is no '{name}'")
    return row[name]


def _read(file: Path) -> str:
    if file.stat().st_size > _LARGEST:
        raise DataError(f"{file} is larger than {_LARGEST >> 30} GB; results are not")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8") from None


def _json(told: str, where: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise DataError(f"{where}: {constant} is no finite number")

    try:
        return json.loads(told, parse_constant=refuse)
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be results") from None
    except ValueError:
        raise DataError(f"{where} is no JSON; the file may have been cut short") from None


def array(file: Path) -> list[Any]:
    """Return a JSON file's list; `DataError` if it is none."""
    found = _json(_read(file), str(file))
    if not isinstance(found, list):
        raise DataError(f"{file} holds no JSON list")
    return found

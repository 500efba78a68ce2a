"""Telling one format of rows from another: by what was written into them, or by their keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from studio.data.formats._kept import kept_format
from studio.data.formats._rows import SUFFIXES, Values, first

INFO = "dataset_info.json"
_STATE = ("state.json", INFO, "dataset_dict.json")
#: What our own recipes and commands put beside rows, to say something about them.
_PAPERS = ("croissant.json", "check.json", "repairs.json", "curate.json", "synthesize.json", "rejected.json")


def data_files(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return the data files that ``path`` means: itself, or those that lie in it."""
    if not path.is_dir():
        return [path] if path.suffix in suffixes and path.is_file() else []
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in suffixes and file.is_file() and not file.name.startswith(".") and _rows(file)
    )


def _rows(file: Path) -> bool:
    return (
        file.name not in (*_STATE, *_PAPERS)
        and file.stem != "metadata"
        and not file.name.endswith(".triptych.json")
    )


def look(path: Path, name: str, looks: Callable[[Values], str | None]) -> str | None:
    """Return why the data at ``path`` is of the format ``name``, or None.

    What ``dataset_info.json`` beside the file says, or what a conversion wrote into the rows, goes before
    what ``looks`` says of the first rows.
    """
    if (path / "state.json").is_file():
        return None
    for file in data_files(path):
        told = info(file).get("formatting")
        if told is not None:
            return f"{INFO} says so of {file.name}" if told == name else None
        for row in first(file):
            written = kept_format(row)
            if written is not None:
                return f"{file.name} was converted to it" if written == name else None
        for row in first(file):
            if reason := looks(row):
                return f"{file.name}: {reason}"
    return None


def info(file: Path) -> Values:
    """Return LLaMA-Factory's entry for a data file in ``dataset_info.json`` beside it, or {}."""
    try:
        found = json.loads((file.parent / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.values() if isinstance(found, dict) else ()
    for entry in entries:
        if isinstance(entry, dict) and entry.get("file_name") == file.name:
            return {"formatting": "alpaca"} | entry
    return {}

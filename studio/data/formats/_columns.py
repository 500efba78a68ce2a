"""Tables of one question and one answer a row: which column is which, and rows of ours made of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from studio.data.formats._kept import keep, restore
from studio.data.formats._ledger import Ledger, kind
from studio.data.formats._rows import KEY, Values
from studio.data.formats._tags import TAGS, Pool
from studio.data.formats._values import path
from studio.data.formats.sharegpt import only, spoken
from studio.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query", "input"),
    "answer": (
        "answer", "output", "response", "completion", "transcription", "transcript", "sentence",
        "caption", "text", "label", "target",
    ),
    "image": ("image", "images", "image_path", "image_file", "image_file_name", "img", "jpg", "png"),
    "audio": ("audio", "audios", "audio_path", "audio_file", "audio_file_name", "wav", "flac", "mp3"),
    "medium": ("file_name", "file", "filename", "path"),
    "system": ("system",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
}  # fmt: skip
COLUMNS = ("prompt", "answer", "image", "audio", "system", "chosen", "rejected")


def meaning(names: Collection[str]) -> dict[str, str]:
    """Return what is in which column, as role -> name; the first name in the order of `NAMES` is taken.

    Beside a text and a label, and nothing to look at or to listen to, the text is the question.
    """
    lower = {name.lower(): name for name in reversed(list(names))}
    found = {}
    for role, known in NAMES.items():
        here = [lower[name] for name in known if name in lower]
        if here:
            found[role] = here[0]
    media = found.keys() & {"image", "audio", "medium"}
    if (
        not media
        and "prompt" not in found
        and {"text", "label"} <= lower.keys()
        and found["answer"] == lower["text"]
    ):
        found |= {"prompt": lower["text"], "answer": lower["label"]}
    return found


def reason(names: Collection[str]) -> str | None:
    """Return how a table is understood, or None if it is no table of questions, answers and media."""
    found = meaning(names)
    asks = found.keys() & {"prompt", "image", "audio", "medium"}
    if not asks or not found.keys() & {"answer", "chosen"}:
        return None
    return ", ".join(f"{role} in '{name}'" for role, name in found.items())


def decode(row: Values, ledger: Ledger, mean: dict[str, str] | None = None) -> Values:
    """Return the row of ours for one row of a table; media without a tag stand before the question."""
    row = dict(row)
    mean = meaning(row) if mean is None else mean
    told = {role: row.pop(name, None) for role, name in mean.items()}
    told = {role: value for role, value in told.items() if value is not None and value != ""}
    media: dict[str, list[str]] = {"image": [], "audio": []}
    for role in ("image", "audio", "medium"):
        for value in _many(told.get(role)):
            place = path(value, mean[role], ledger)
            what = role if role in media else kind(place)
            if what is None:
                raise DataError(f"'{mean[role]}': '{place}' has the suffix of no picture and no sound")
            media[what].append(place)
    pool = Pool(**media)
    question = pool.parts(_text(told.get("prompt", ""), mean.get("prompt", "")))
    if pool.untouched:
        question = [*pool.rest(), *question]
    pool.settle()
    if not question:
        raise DataError(f"there is no question and no medium; columns: {', '.join(sorted(row)) or 'none'}")
    messages: list[Values] = [{"role": "user", "content": question}]
    if "system" in told:
        messages.insert(0, {"role": "system", "content": _text(told["system"], mean["system"])})
    if "answer" in told:
        messages.append({"role": "assistant", "content": _text(told["answer"], mean["answer"])})
    made: Values = {"messages": messages}
    for key in ("chosen", "rejected"):
        if key in told:
            made[key] = [{"role": "assistant", "content": _text(told[key], mean[key])}]
    return restore(row, made)


def _many(value: Any) -> list[Any]:
    """Return the media of one cell: none, one, or the members of a list (or of its JSON text)."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any, name: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a label that is a number
    if not isinstance(value, str):
        raise DataError(f"'{name}' must be a text")
    return value


def encode(row: Values, name: str, columns: Collection[str] = COLUMNS, beside: bool = False) -> Values:
    """Return the cells for a row of ours that asks once; ``beside`` lets ``extra`` have columns of its own.

    Raises:
        DataError: if it has several questions, or something that no cell is for.
    """
    said, system, media = spoken(row["messages"])
    if len(said) > 2:
        raise DataError(f"the row has {len(said)} messages; this format holds one question and one answer")
    question = said[0][1]
    if question == "".join(TAGS[kind] * len(paths) for kind, paths in media.items()):
        question = ""
    made: Values = {"prompt": question, "answer": said[1][1] if len(said) > 1 else "", "system": system}
    made |= {kind: _cell(paths) for kind, paths in media.items()}
    made |= {key: only(row[key], key) for key in ("chosen", "rejected") if key in row}
    made = {key: value for key, value in made.items() if value != ""}
    if strange := [key for key in made if key not in columns]:
        raise DataError(f"this format has no place for '{strange[0]}'")
    known = {name for names in NAMES.values() for name in names}
    return keep(row, name, made, known | set(columns) | {KEY}, beside=beside)


def _cell(paths: list[str]) -> str:
    if len(paths) == 1 and not paths[0].startswith("["):
        return paths[0]
    return json.dumps(paths, ensure_ascii=False) if paths else ""

"""A curated set on disk: the rows that stay, and all it takes to give the input back byte for byte.

    train.jsonl ...        rows that stay; those that no step changed are the very bytes of the input
    (media)                at the same relative places
    undo/removed.jsonl     {"file", "row", "id", "step", "reason", "line"}: the line as it was
    undo/changes.jsonl     {"file", "row", "id", "steps": [{"step", "reason"}], "line"}: the line as it was
    undo/undo.json         hashes of both sides, blank lines, line endings
    undo/media/            media that only removed or changed rows used

What steps redact stands in ``undo``; without that folder the set is whole, and cannot be undone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from studio.data.parquet import parquet_rows
from studio.data.rows import row_of
from studio.data.steps._step import Place
from studio.errors import DataError
from studio.files import atomic_folder, sha256_file
from studio.log import Log
from studio.types import Sample

UNDO, REMOVED, CHANGES, LAYOUT = "undo", "removed.jsonl", "changes.jsonl", "undo.json"
Ways = Literal["link", "copy"]
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Done:
    """All that was done to one row: the edits with the names of their steps; ``new`` is None if it went."""

    steps: Sequence[tuple[str, str]]
    new: Sample | None


def write_set(
    folder: Path, files: Sequence[Path], done: Mapping[Place, Done], ways: Ways, log: Log
) -> dict[str, Any]:
    """Write the curated set to the empty ``folder``; return rows and hashes by file.

    Raises:
        DataError: if a medium's name leads out of the set, or the input was changed meanwhile.
    """
    undo = folder / UNDO
    undo.mkdir()
    media = _Media(files[0].parent, folder, ways)
    layouts: dict[str, Any] = {}
    log.stage("writing", len(files), "files")
    with open(undo / REMOVED, "wb") as removed, open(undo / CHANGES, "wb") as changes:
        for file in files:
            layouts[lines_name(file)] = _write_file(folder, file, done, removed, changes, media)
            log.advance()
    media.finish()
    (undo / LAYOUT).write_text(json.dumps({"files": layouts}, indent=1, ensure_ascii=False), encoding="utf-8")
    for file in files:
        told = layouts[lines_name(file)]
        digest = hashlib.sha256()
        for raw in _restored(folder, lines_name(file), told):
            digest.update(raw)
        if digest.hexdigest() != told["input"]:
            raise DataError(f"data file '{file}' was changed while it was in use")
    return layouts


def _write_file(
    folder: Path,
    file: Path,
    done: Mapping[Place, Done],
    removed: IO[bytes],
    changes: IO[bytes],
    media: _Media,
) -> dict[str, Any]:
    digest, ending, blank, endings = hashlib.sha256(), "", {}, {}
    rows = kept = number = 0
    bom = False
    target = folder / lines_name(file)
    with open(target, "wb") as out:
        for number, raw in enumerate(_raw_lines(file), 1):
            digest.update(raw)
            if number == 1 and raw.startswith(_BOM):
                bom, raw = True, raw[len(_BOM) :]
            bare = raw.rstrip(b"\r\n")
            end = raw[len(bare) :].decode()
            text = raw.decode()
            if not text or text.isspace():
                blank[str(number)] = text
                continue
            ending = ending if rows else end
            if end != ending:
                endings[str(number)] = end
            rows += 1
            what = done.get((file, number))
            if what is None:
                out.write(bare + b"\n")
                kept += 1
                media.keep(json.loads(bare))
                continue
            row = json.loads(bare)
            media.spare(row)
            line = {"line": bare.decode()}
            where = {"file": target.name, "row": number, "id": str(row.get("id", ""))}
            if what.new is None:
                [*earlier, (step, reason)] = what.steps
                more: dict[str, Any] = {"step": step, "reason": reason}
                if earlier:
                    more["before"] = [{"step": name, "reason": why} for name, why in earlier]
                removed.write(_json(where | more | line))
            else:
                told = [{"step": name, "reason": why} for name, why in what.steps]
                changes.write(_json(where | {"steps": told} | line))
                made = row_of(what.new, file.parent)
                out.write(_json(made))
                media.keep(made)
                kept += 1
    if not kept:
        target.unlink()
    return {
        "rows": rows, "kept": kept, "lines": number, "input": digest.hexdigest(),
        "output": sha256_file(target) if kept else "", "bom": bom, "ending": ending,
        "endings": endings, "blank": blank,
    }  # fmt: skip


def lines_name(file: Path) -> str:
    """Return what the file with the rows of ``file`` is called in a curated set: Parquet becomes lines."""
    return f"{file.stem}.jsonl"


def _raw_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a data file as they are, or the rows of a Parquet file as lines of JSON."""
    if file.suffix == ".parquet":
        yield from (_json(row) for _, row in parquet_rows(file))
        return
    with open(file, "rb") as lines:
        yield from lines


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class _Media:
    """Puts the media of a set beside its rows: those of rows that stay, and in ``undo`` the others."""

    def __init__(self, root: Path, folder: Path, ways: Ways) -> None:
        self._root, self._folder, self._ways = root, folder, ways
        self._kept: set[str] = set()
        self._spared: set[str] = set()

    def keep(self, row: Mapping[str, Any]) -> None:
        for name in _names(row):
            if name not in self._kept:
                self._kept.add(name)
                put(self._root / name, self._folder / _inside(name), self._ways)

    def spare(self, row: Mapping[str, Any]) -> None:
        self._spared.update(_names(row))

    def finish(self) -> None:
        for name in sorted(self._spared - self._kept):
            put(self._root / name, self._folder / UNDO / "media" / _inside(name), self._ways)


def put(source: Path, target: Path, ways: Ways) -> None:
    """Link or copy a file; one that is not there, or stands there already, is left alone."""
    if not source.is_file() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if ways == "link":
        try:
            os.link(os.path.realpath(source), target)
            return
        except OSError:  # another disk, or one that knows no links
            pass
    shutil.copyfile(source, target)


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for message in row["messages"]:
        if isinstance(message["content"], list):
            yield from (part["path"] for part in message["content"] if "path" in part)


def _inside(name: str) -> Path:
    place = Path(os.path.normpath(name))
    if place.parts[:1] in ((), ("..",), (UNDO,)):
        raise DataError(f"media path '{name}' cannot be kept: it leads through a link, or stands in '{UNDO}'")
    return place


def restore(curated: Path, target: Path, ways: Ways, log: Log) -> int:
    """Write the input of a curated set to the new folder ``target``, byte for byte; return its rows.

    Raises:
        DataError: if the set has no ``undo`` folder, or it or the set was changed since.
    """
    try:
        layouts = json.loads((curated / UNDO / LAYOUT).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        raise DataError(f"'{curated}' cannot be undone: it has no {UNDO}/{LAYOUT} of a curated set") from None
    log.stage("undoing", len(layouts), "files")
    rows = 0
    with atomic_folder(target) as folder:
        for name, told in layouts.items():
            digest = hashlib.sha256()
            with open(folder / name, "wb") as out:
                for raw in _restored(curated, name, told):
                    digest.update(raw)
                    out.write(raw)
                    if raw.strip():
                        for medium in _names(_row(raw)):
                            for home in (curated, curated / UNDO / "media"):
                                put(home / medium, folder / _inside(medium), ways)
            if digest.hexdigest() != told["input"]:
                raise DataError(
                    f"'{curated}' cannot be undone: {name} or its {UNDO} folder was changed since"
                )
            rows += told["rows"]
            log.advance()
    return rows


def _row(raw: bytes) -> Mapping[str, Any]:
    try:
        row: Mapping[str, Any] = json.loads(raw.decode("utf-8-sig"))
        return row if isinstance(row.get("messages"), list) else {"messages": []}
    except (ValueError, AttributeError):
        return {"messages": []}


def _restored(curated: Path, name: str, told: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the lines of an input file as they were."""
    gone, changed = (_lines(curated / UNDO / file, name) for file in (REMOVED, CHANGES))
    out = _kept_lines(curated / name)
    for number in range(1, told["lines"] + 1):
        mark = _BOM if number == 1 and told["bom"] else b""
        if str(number) in told["blank"]:
            yield mark + told["blank"][str(number)].encode()
            continue
        line = gone[number] if number in gone else next(out, b"")
        yield mark + changed.get(number, line) + told["endings"].get(str(number), told["ending"]).encode()


def _kept_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a data file without their ends; none if there is no file."""
    if file.is_file():
        with open(file, "rb") as lines:
            for line in lines:
                yield line.removesuffix(b"\n")


def _lines(file: Path, name: str) -> dict[int, bytes]:
    """Return the lines as they were, by number, of one input file."""
    found = {}
    try:
        with open(file, "rb") as rows:
            for raw in rows:
                row = json.loads(raw)
                if row["file"] == name:
                    found[int(row["row"])] = row["line"].encode()
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"'{file}' was changed since the set was made; it cannot be undone") from None
    return found

"""A repaired copy of a set: media rewritten, rows that cannot be used left out, all of it told."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.data.findings import kinds
from studio.data.findings.found import Finding, Report
from studio.data.findings.rows import read_rows
from studio.data.jsonl import write_jsonl
from studio.data.kept_facts import examine
from studio.errors import DataError
from studio.files import atomic_folder
from studio.log import Log, QuietLog
from studio.media import load_sound, save_sound
from studio.media_facts import Facts, suffixes, write_upright
from studio.types import Image, Part, Sample, Text, Turn

FILE = "repairs.json"


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What was done: the rows that were kept, those left out with their findings, the media rewritten."""

    kept: int
    dropped: list[dict[str, Any]]
    rewritten: list[dict[str, Any]]


def repair(report: Report, out: Path, log: Log) -> Repairs:
    """Write a copy of the checked set to ``out`` without what can be mended; the set itself stays as it is.

    Turned pictures are turned, CMYK becomes RGB, of an animation the first frame stays, sounds are mixed down
    to one channel and resampled, names get the ending of their format, repeated ids go. Rows with any
    other error are left out, and so are copies of rows. ``repairs.json`` in ``out`` lists all of it.

    Raises:
        DataError: if ``out`` exists already, or no row would be left.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"'{out}' exists already; give --fix a new folder")
    found: dict[tuple[Path, int], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        found[finding.file, finding.row].append(finding)
    dropped: list[dict[str, Any]] = []
    kept = 0
    log.stage("repairing", report.rows, "rows")
    with atomic_folder(out) as folder:
        media = _Media(report, folder)
        for file in report.files:
            rows = list(_mended(file, found, media, dropped, log))
            kept += len(rows)
            if rows:
                write_jsonl(folder / f"{file.stem}.jsonl", rows)
        if not kept:
            raise DataError(f"no row of {report.files[0].parent} would be left; nothing was written")
        done = Repairs(kept=kept, dropped=dropped, rewritten=media.rewritten)
        (folder / FILE).write_text(json.dumps(vars(done), indent=1, ensure_ascii=False), encoding="utf-8")
    return done


def _mended(
    file: Path,
    found: dict[tuple[Path, int], list[Finding]],
    media: _Media,
    dropped: list[dict[str, Any]],
    log: Log,
) -> Iterator[Sample]:
    for row in read_rows(file):
        log.advance()
        line = row.line if isinstance(row, Sample) else row.row
        bad = [one for one in found[file, line] if one.about.repair == "drop"]
        if bad or not isinstance(row, Sample):
            bad = bad or [one for one in (row,) if isinstance(one, Finding)]
            told = [{"kind": one.kind, "message": one.message} for one in bad]
            dropped.append({"file": file.name, "row": line, "findings": told})
            continue
        if any(one.kind == kinds.DUPLICATE_ID.name for one in found[file, line]):
            row = replace(row, id="")
        yield replace(row, turns=tuple(media.moved(turn) for turn in row.turns))


class _Media:
    """Puts media into the new folder, each of them once, rewritten where that is needed."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._root = Path(os.path.realpath(report.files[0].parent))
        self._folder = folder
        self._report = report
        self._why: dict[tuple[Path, bool], list[str]] = defaultdict(list)
        for finding in report.findings:
            if finding.medium and finding.about.repair == "rewrite":
                why = self._why[finding.medium]
                if finding.kind not in why:
                    why.append(finding.kind)
        self._done: dict[tuple[Path, bool], Path] = {}
        self._taken: dict[Path, Path] = {}
        self.rewritten: list[dict[str, Any]] = []

    def moved(self, turn: Turn) -> Turn:
        """Return a turn whose media lie in the new folder."""
        return replace(turn, parts=tuple(self._moved(part) for part in turn.parts))

    def _moved(self, part: Part) -> Part:
        if isinstance(part, Text):
            return part
        medium = part.path, isinstance(part, Image)
        if medium not in self._done:
            self._done[medium] = self._put(*medium)
        return replace(part, path=self._done[medium])

    def _put(self, path: Path, picture: bool) -> Path:
        why = self._why.get((path, picture), [])
        facts = examine([(path, picture)], QuietLog())[path, picture].facts if why else Facts()
        recode = [name for name in why if name != kinds.EXTENSION.name]
        suffix = _suffix(path, picture, facts, bool(recode)) if why else path.suffix
        target = self._free(path, self._folder / path.relative_to(self._root).with_suffix(suffix))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not recode:
            if not target.exists():
                shutil.copyfile(path, target)
        elif picture:
            write_upright(path, target)
        else:
            rate = self._report.rate or facts.rate
            save_sound(target, load_sound(path, rate), rate)
        if why:
            place, new = path.relative_to(self._root), target.relative_to(self._folder)
            self.rewritten.append({"medium": place.as_posix(), "to": new.as_posix(), "kinds": why})
        return target

    def _free(self, path: Path, target: Path) -> Path:
        """Return ``target`` under a name that no other medium has taken or will take."""
        number, wanted = 0, target
        while self._taken.setdefault(target, path) != path or self._original(path, target):
            number += 1
            target = wanted.with_stem(f"{wanted.stem}-{number}")
        return target

    def _original(self, path: Path, target: Path) -> bool:
        """Say whether another medium of the old set stands at the same place as ``target``."""
        place = self._root / target.relative_to(self._folder)
        return place != path and place.exists()


def _suffix(path: Path, picture: bool, facts: Facts, recode: bool) -> str:
    """Return the ending for a medium that gets a new name or is written again."""
    if not recode:
        return suffixes(facts.form)[0]
    if picture:
        return ".jpg" if facts.form == "JPEG" else ".png"
    return ".wav" if facts.form in ("WAV", "WAVEX") else ".flac"

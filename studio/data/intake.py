"""Taking in the data set of somebody who is no engineer: checked, mended, ready to be trained on.

    taken = take_in(folder, Path("runs/data/cloth"), gauge, log)

Rows of any format become ours, rows that cannot be learned from are left out, media are mended, and where
there are no held-out rows, every tenth is set aside. The report is about the data as they were given. What
is written appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.data.findings.check import check
from studio.data.findings.found import Report
from studio.data.findings.kinds import KINDS
from studio.data.findings.repair import FILE, Repairs, repair
from studio.data.findings.source import Source, native, source_of
from studio.data.formats import convert
from studio.data.jsonl import load_data
from studio.errors import DataError
from studio.log import Log
from studio.types import Sample

if TYPE_CHECKING:
    from studio.families._gauge import Gauge

#: Of so many rows or more a tenth is held out, at least two and at most a hundred.
HOLD_OUT, TENTH, MOST = 20, 10, 100
EXAMPLES = 3
_HELD_OUT = ("test", "valid", "eval", "dev")
_EVERY_ROW = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A data set to train on: train.jsonl and, with ``held_out`` rows, test.jsonl in ``folder``.

    ``report`` is that of the data as they were given, in ``format``; paths in it lie below ``root``.
    ``learned``, ``held_out`` and ``left_out`` count rows, ``mended`` counts media; ``examples`` are the first
    rows to learn from.
    """

    folder: Path
    root: Path
    format: str
    report: Report
    learned: int
    held_out: int
    left_out: int
    mended: int
    pictures: bool
    sounds: bool
    examples: tuple[Sample, ...]

    @property
    def told(self) -> str:
        """What became of the rows, in one line."""
        parts = [f"{self.learned:,} rows to learn from"]
        if self.held_out:
            parts.append(f"{self.held_out:,} held out to measure with")
        if self.left_out:
            parts.append(f"{self.left_out:,} left out")
        if self.mended:
            parts.append(f"{self.mended:,} media mended")
        return ", ".join(parts)


def take_in(path: Path, out: Path, gauge: Gauge | None, log: Log) -> Taken:
    """Check what is at ``path`` and write what can be learned of it to the new folder ``out``.

    Raises:
        DataError: if it is no data, or no row of it can be learned from; then nothing is written.
        OSError: if the disk is full; then nothing is written, either.
    """
    root = _inside(path)
    source = _source(root)
    report = check(source, log, gauge=gauge)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".taking-in-") as scratch:
        rows = Path(scratch) / "rows"
        log.say("reading the rows")
        _convert(source, root, rows, report)
        _in_two(rows)
        again = check(native(sorted(rows.glob("*.jsonl"))), log, gauge=gauge)
        mended = 0
        if any(KINDS[name].repair for name in again.counts()):
            mended = len(_repaired(again, out, log, report).rewritten)
            (out / FILE).unlink(missing_ok=True)
        elif not (rows / "train.jsonl").is_file():
            raise _nothing(report)
        else:
            os.rename(rows, out)
    if not (out / "train.jsonl").is_file():
        shutil.rmtree(out)
        raise _nothing(report)
    learned, held = load_data(out / "train.jsonl"), _count(out / "test.jsonl")
    return Taken(
        folder=out,
        root=root if root.is_dir() else root.parent,
        format=source.format,
        report=report,
        learned=len(learned),
        held_out=held,
        left_out=max(0, report.rows - len(learned) - held),
        mended=mended,
        pictures=any(row.images for row in learned),
        sounds=any(row.sounds for row in learned),
        examples=tuple(learned[:EXAMPLES]),
    )


def _inside(path: Path) -> Path:
    """Return the folder or file with the data: archives often hold one folder with everything in it."""
    while path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        if len(entries) != 1:
            break
        path = entries[0]
    return path


def _source(root: Path) -> Source:
    """Return what the data are.

    Raises:
        DataError: telling in plain words what would be data, if nothing is found that is.
    """
    try:
        return source_of(root)
    except DataError as error:
        if "looks like none of the formats" not in str(error):
            raise
    raise DataError(
        f"'{root.name}' holds nothing that can be learned from: rows of JSON need messages, a table "
        "needs a column with questions (question, prompt, image, audio) and one with answers (answer, "
        "output, label), a folder of pictures or sounds needs one folder for each answer"
    )


def _convert(source: Source, root: Path, rows: Path, report: Report) -> None:
    try:
        own = "triptych" if source.files[0].suffix == ".jsonl" else None
        named = own if source.own else source.format
        convert(root, rows, "triptych", source=named, skip=_EVERY_ROW, link=True)
    except DataError as error:
        if "there is no row to convert" in str(error):
            raise _nothing(report) from None
        raise


def _repaired(report: Report, out: Path, log: Log, first: Report) -> Repairs:
    try:
        return repair(report, out, log)
    except DataError as error:
        if "would be left" in str(error):
            raise _nothing(first) from None
        raise


def _nothing(report: Report) -> DataError:
    """Return the sentence for a set of which nothing is left, with the reasons by their frequency."""
    reasons = ", ".join(
        f"{count} x {KINDS[name].means}"
        for name, count in report.counts().items()
        if KINDS[name].repair == "drop"
    )
    return DataError(
        f"none of the {report.rows} rows can be learned from: {reasons or 'they have no answers'}"
    )


def _in_two(folder: Path) -> None:
    """Leave train.jsonl and, if rows are held out or enough to hold some out, test.jsonl in the folder."""
    files = sorted(folder.glob("*.jsonl"))
    held = [file for file in files if any(word in file.stem.lower() for word in _HELD_OUT)]
    learned = [file for file in files if file not in held] or held
    held = [file for file in held if file not in learned]
    train, test = _lines(learned), _lines(held)
    if not test and len(train) >= HOLD_OUT:
        count = min(MOST, max(2, len(train) // TENTH))
        chosen = set(sorted(range(len(train)), key=lambda at: hashlib.sha256(train[at]).digest())[:count])
        test = [line for at, line in enumerate(train) if at in chosen]
        train = [line for at, line in enumerate(train) if at not in chosen]
    for file in files:
        file.unlink()
    for name, lines in (("train", train), ("test", test)):
        if lines:
            (folder / f"{name}.jsonl").write_bytes(b"".join(lines))


def _lines(files: Sequence[Path]) -> list[bytes]:
    """Return the rows of data files, each with its line break."""
    rows = [line.rstrip(b"\r\n") for file in files for line in file.read_bytes().split(b"\n")]
    return [row + b"\n" for row in rows if row.strip()]


def _count(file: Path) -> int:
    return len(_lines([file])) if file.is_file() else 0

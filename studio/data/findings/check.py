"""Checking whole sets: every row read, every medium decoded, every pair of splits compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cache import Kept
from studio.data.findings import copies, kinds, media, rows
from studio.data.findings.found import Finding, Report
from studio.data.jsonl import SHOWN, data_splits, find_data, together
from studio.data.kept_facts import Examined, Medium, examine
from studio.errors import DataError, MediaError
from studio.log import Log
from studio.types import Sample

if TYPE_CHECKING:
    from studio.families._gauge import Gauge

_FILES = {kind.name for kind in (kinds.MISSING, kinds.NOT_A_FILE, kinds.EMPTY_FILE, kinds.TRUNCATED)} | {
    kinds.WRONG_TYPE.name,
    kinds.BOMB.name,
}


def check(files: Sequence[Path], log: Log, *, gauge: Gauge | None = None, kept: Kept | None = None) -> Report:
    """Return what is wrong with the data files of one set, its splits.

    With a ``gauge`` every row is encoded by that model's processor, too. Nothing about the rows or their
    media is raised: all of it is in the report.

    Raises:
        DataError: if a data file cannot be read at all, or none of them has a row.
    """
    samples: list[Sample] = []
    wrong: list[Finding] = []
    files = [Path(os.path.abspath(file)) for file in files]
    for file in files:
        for row in rows.read_rows(file):
            if isinstance(row, Sample):
                samples.append(row)
            else:
                wrong.append(row)
    if not samples and not wrong:
        raise DataError(f"data file '{files[0]}' holds no samples" if files else "there is no data file")
    found, examined, rate = _check(samples, log, gauge, kept or Kept())
    order = {file: number for number, file in enumerate(files)}
    findings = sorted([*wrong, *found], key=lambda f: (order[f.file], f.row))
    return Report(
        files=tuple(files),
        rows=len(samples) + len(wrong),
        findings=findings,
        facts={medium: one.facts for medium, one in examined.items()},
        rate=rate,
    )


def data_files(path: Path, split: str | None = None) -> list[Path]:
    """Return the data files that are meant: one file, one split of a folder, or all its splits, train last.

    What stands in two splits is then found in train, where a row can best be spared.

    Raises:
        DataError: if there is none.
    """
    if path.is_dir() and split is None:
        splits = sorted(data_splits(path).items(), key=lambda split: ("train" in split[0], split[0]))
        if splits:
            return [file for _, file in splits]
    file = find_data(path, split)
    if file.suffix not in (".jsonl", ".parquet"):
        raise DataError(
            f"'{path}' is neither .jsonl nor .parquet; `triptych convert {path} OUT --to triptych` makes "
            "rows of other tools' data"
        )
    return [file]


def check_before_training(samples: Sequence[Sample], log: Log, *, kept: Kept | None = None) -> dict[str, int]:
    """Check the rows of a run before its first step; return how often each kind of warning was found.

    Warnings are told to ``log`` as counts.

    Raises:
        DataError: with an error of each of the first ten wrong rows; `MediaError` if all are about files.
    """
    found, _, _ = _check(samples, log, None, kept or Kept(), encode=False)
    first: dict[tuple[Path, int], Finding] = {}
    for finding in found:
        if finding.error:
            first.setdefault((finding.file, finding.row), finding)
    if first:
        kind = MediaError if all(finding.kind in _FILES for finding in first.values()) else DataError
        told = [finding.sentence for finding in first.values()]
        raise kind(together(told[:SHOWN], len(told), "rows", len(samples)))
    warnings = Report(files=(), rows=len(samples), findings=found).counts()
    if warnings:
        counts = ", ".join(f"{count} {name}" for name, count in warnings.items())
        log.say(f"data: {counts}; `triptych check` tells where")
    return warnings


def _check(
    samples: Sequence[Sample], log: Log, gauge: Gauge | None, kept: Kept, encode: bool = True
) -> tuple[list[Finding], dict[Medium, Examined], int]:
    """Return all findings in the rows that could be read, their media, and the rate sounds should have."""
    examined = examine((medium for sample in samples for medium in copies.media_of(sample)), log, kept)
    digests = {path: one.digest for (path, _), one in examined.items()}
    facts = {path: one.facts for (path, _), one in examined.items()}

    def digest_of(path: Path) -> str:
        return digests.get(path, "")

    rate = gauge.rate if gauge else media.usual_rate(facts.values())
    found: list[Finding] = []
    whole: list[Sample] = []
    for sample in samples:
        own = [*_of_row(sample), *_of_media(sample, examined, rate)]
        if gauge is not None:
            from studio.data.findings import lengths

            own += [*lengths.modalities(sample, gauge), *lengths.long_sounds(sample, gauge, facts)]
        found += own
        if not any(finding.error for finding in own):
            whole.append(sample)
    found += copies.copies(samples, digest_of)
    found += copies.leaked_media(samples, digest_of)
    found += copies.repeated_ids(samples)
    found += copies.groups(samples)
    if gauge is not None and encode:
        from studio.data.findings import lengths

        found += lengths.lengths(whole, gauge, kept, digest_of, log)
    return found, examined, rate


def _of_row(sample: Sample) -> Iterator[Finding]:
    for kind, message in (*rows.answers(sample), *rows.tags(sample)):
        yield Finding(row=sample.line, file=sample.file, kind=kind.name, message=message)


def _of_media(sample: Sample, examined: dict[Medium, Examined], rate: int) -> Iterator[Finding]:
    for medium in dict.fromkeys(copies.media_of(sample)):
        for kind, message in media.findings_of(*medium, examined[medium].facts, rate):
            yield Finding(row=sample.line, file=sample.file, kind=kind.name, message=message, medium=medium)

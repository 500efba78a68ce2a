"""Checking whole sets: every row read, every medium decoded, every pair of splits compared.

Rows go by in parts, so that a set of any size is checked in the memory of one part, of some bytes for each
row (`studio.data.findings.copies`) and of the first findings (`studio.data.findings.spool`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cache import Kept
from studio.data.findings import copies, kinds, media, rows, unchanged
from studio.data.findings.found import Finding, Report
from studio.data.findings.source import Source, native
from studio.data.findings.spool import Findings, merged
from studio.data.jsonl import SHOWN, together
from studio.data.kept_facts import Examined, Medium, examine
from studio.errors import DataError, MediaError
from studio.log import Log, QuietLog
from studio.types import Sample

if TYPE_CHECKING:
    from studio.families._gauge import Gauge

#: Rows that stand in memory at once.
PART = 2048
_FILES = {kind.name for kind in (kinds.MISSING, kinds.NOT_A_FILE, kinds.EMPTY_FILE, kinds.TRUNCATED)} | {
    kinds.WRONG_TYPE.name,
    kinds.BOMB.name,
}
#: The number of the split that a row is of, and the row or what is wrong with it.
Read = tuple[int, Sample | Finding]


def check(
    data: Sequence[Path] | Source, log: Log, *, gauge: Gauge | None = None, kept: Kept | None = None
) -> Report:
    """Return what is wrong with one set: the data files of its splits, or a source of another format.

    With a ``gauge`` every row is encoded by that model's processor, too. Nothing about the rows or their
    media is raised: all of it is in the report. A set of which no file has changed is not looked at again.

    Raises:
        DataError: if a data file cannot be read at all, or none of them has a row.
    """
    source = data if isinstance(data, Source) else native(data)
    kept = kept or Kept()
    name = unchanged.name_of(source, gauge)
    known = unchanged.recall(name, source, kept)
    if known is not None:
        return known
    expected = source.rows_expected()
    if expected:
        log.stage("checking", expected, "rows")
    stamp = source.stamp()
    with source.opened() as read:
        looked = _Look(read, log, gauge, kept, encode=gauge is not None, part=PART, counted=expected > 0)
        findings = looked.findings()
    if source.stamp() != stamp:
        raise DataError(f"data '{source.path}' was changed while it was checked")
    if not looked.count:
        raise DataError(f"data file '{source.path}' holds no samples")
    report = Report(
        files=source.files, rows=looked.count, findings=findings, media=len(looked.media), rate=looked.rate
    )
    unchanged.remember(name, report, looked.media.names, kept)
    return report


def check_before_training(samples: Sequence[Sample], log: Log, *, kept: Kept | None = None) -> dict[str, int]:
    """Check the rows of a run before its first step; return how often each kind of warning was found.

    Warnings are told to ``log`` as counts.

    Raises:
        DataError: with an error of each of the first ten wrong rows; `MediaError` if all are about files.
    """
    splits = {file: number for number, file in enumerate(dict.fromkeys(sample.file for sample in samples))}

    def read() -> Iterator[Read]:
        return ((splits[sample.file], sample) for sample in samples)

    found = _Look(read, log, None, kept or Kept(), encode=False, part=len(samples) or 1).findings()
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


class _Look:
    """One look at all rows: ``rate`` is what sounds should have, by the model or as most of them have it."""

    def __init__(
        self,
        read: Callable[[], Iterable[Read]],
        log: Log,
        gauge: Gauge | None,
        kept: Kept,
        *,
        encode: bool,
        part: int,
        counted: bool = True,
    ) -> None:
        self._read, self._log, self._gauge, self._kept = read, log, gauge, kept
        self._encode, self._part, self._counted = encode, part, counted
        self.rate = gauge.rate if gauge else -1
        self.count = 0
        self.media = unchanged.Media()

    def findings(self) -> Findings:
        """Return all findings, in the order of the rows."""
        found = self._once()
        wanted = self.rate if self._gauge else media.most_usual(self._rates)
        if wanted != self.rate:  # the first part of the rows was not like the others
            self.rate = wanted
            found = self._once()
        return found

    def _once(self) -> Findings:
        own, measured, compared = Findings(), Findings(), Findings()
        between = copies.Between()
        self.count, self.media, self._rates = 0, unchanged.Media(), Counter[int]()
        rows = iter(self._read())
        whole = self._part == PART
        while part := list(islice(rows, self._part)):
            self._of_part(part, own, measured, between, QuietLog() if whole else self._log)
            if whole and self._counted:
                self._log.advance(len(part))
            elif whole and len(part) == self._part:  # how many will follow is not known
                self._log.say(f"checking: {self.count:,} rows")
        for place, finding in between.found(
            lambda: (row for _, row in self._read() if isinstance(row, Sample))
        ):
            compared.add(finding, place)
        return merged([own, compared, measured])

    def _of_part(
        self, part: Sequence[Read], own: Findings, measured: Findings, between: copies.Between, log: Log
    ) -> None:
        samples = [row for _, row in part if isinstance(row, Sample)]
        wanted = dict.fromkeys(medium for sample in samples for medium in copies.media_of(sample))
        examined = examine(wanted, log, self._kept)
        digests = {path: one.digest for (path, _), one in examined.items()}
        facts = {path: one.facts for (path, _), one in examined.items()}
        self._rates.update(self.media.add(examined))
        if self.rate < 0:
            self.rate = media.usual_rate(facts.values())

        def digest_of(path: Path) -> str:
            return digests.get(path, "")

        whole: list[Sample] = []
        places: dict[tuple[Path, int], int] = {}
        for place, (split, row) in enumerate(part, start=self.count):
            if isinstance(row, Finding):
                own.add(row, place)
                continue
            told = [*_of_row(row), *_of_media(row, examined, self.rate)]
            if self._gauge is not None:
                from studio.data.findings import lengths

                told += [*lengths.modalities(row, self._gauge), *lengths.long_sounds(row, self._gauge, facts)]
            for finding in told:
                own.add(finding, place)
            between.see(split, place, row, digest_of)
            if self._encode and not any(finding.error for finding in told):
                whole.append(row)
                places[row.file, row.line] = place
        self.count += len(part)
        if whole and self._gauge is not None:
            from studio.data.findings import lengths

            for finding in lengths.lengths(whole, self._gauge, self._kept, digest_of, log):
                measured.add(finding, places[finding.file, finding.row])


def _of_row(sample: Sample) -> Iterator[Finding]:
    for kind, message in (*rows.answers(sample), *rows.tags(sample)):
        yield Finding(row=sample.line, file=sample.file, kind=kind.name, message=message)


def _of_media(sample: Sample, examined: dict[Medium, Examined], rate: int) -> Iterator[Finding]:
    for medium in dict.fromkeys(copies.media_of(sample)):
        for kind, message in media.findings_of(*medium, examined[medium].facts, rate):
            yield Finding(row=sample.line, file=sample.file, kind=kind.name, message=message, medium=medium)

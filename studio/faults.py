"""Reports of wrong answers as data for the next round: rows to learn from, and questions that are still open.

    counts = export_faults(store, Path("runs/triptych.media"), Path("reports"))

``answered/train.jsonl`` has a row for each question with the answer that a person wrote for it: `triptych
check` passes it, the recipe sft learns from it. ``unanswered/test.jsonl`` has the questions for which nobody
did: `triptych questions make` asks them again. Media stand beside each. No variant and no rater is named.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from studio.data import write_jsonl
from studio.data.findings.check import check
from studio.data.findings.source import source_of
from studio.data.identity import sample_key
from studio.errors import DataError
from studio.files import atomic_folder
from studio.kept import Comparison, Fault
from studio.log import QuietLog
from studio.store import Store
from studio.types import Sample, Text, Turn
from studio.votes import KeptMedia, conversation_of

ANSWERED, UNANSWERED = Path("answered", "train.jsonl"), Path("unanswered", "test.jsonl")
COUNTS = ("answered", "unanswered", "replaced", "media gone", "unusable")


def export_faults(store: Store, media: Path | None, out: Path) -> dict[str, int]:
    """Write the reports of ``store`` into the new folder ``out`` and return counts by `COUNTS`.

    ``media`` is where the app kept pictures and recordings, by their SHA-256. Of several right answers to one
    question the newest counts, the others are ``replaced``; a question that has one is not open any more.
    Reports whose media are gone, and rows that a check calls wrong (``unusable``), are left out.

    Raises:
        DataError: if ``out`` is there already, or there is nothing to write.
    """
    if out.exists():
        raise DataError(f"{out} is there already; name a new folder")
    counts = dict.fromkeys(COUNTS, 0)
    asked = {one.id: one for one in store.comparisons()}
    reports = sorted(store.faults(), key=lambda fault: fault.created)
    with atomic_folder(out) as folder:
        answered: dict[str, Sample] = {}
        for fault in reports:
            if fault.correction.strip():
                row = _row(asked[fault.comparison], fault, media, folder / ANSWERED, counts)
                if row is not None:
                    counts["replaced"] += _question(row) in answered
                    answered.pop(_question(row), None)
                    answered[_question(row)] = row
        sound = list(_without_errors(answered.values(), folder / ANSWERED))
        counts["answered"], counts["unusable"] = len(sound), len(answered) - len(sound)
        open_ones: dict[str, Sample] = {}
        for fault in reports:
            if not fault.correction.strip():
                row = _row(asked[fault.comparison], fault, media, folder / UNANSWERED, counts)
                if row is not None and _question(row) not in answered:
                    open_ones.setdefault(_question(row), row)
        counts["unanswered"] = len(open_ones)
        if not sound and not open_ones:
            raise DataError(f"store '{store.url}' holds no report that can be used; nothing was written")
        for file, rows in ((ANSWERED, sound), (UNANSWERED, list(open_ones.values()))):
            if rows:
                write_jsonl(folder / file, rows)
            _tidy(folder / file, rows)
    return counts


def _tidy(file: Path, rows: Iterable[Sample]) -> None:
    """Remove the media that no row beside them uses, and the folder if there is no row."""
    used = {image.path for row in rows for image in row.images}
    used |= {sound.path for row in rows for sound in row.sounds}
    if not used:
        shutil.rmtree(file.parent / "media", ignore_errors=True)
    for medium in (file.parent / "media").glob("*"):
        if medium not in used:
            medium.unlink()
    if file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()


def _row(
    comparison: Comparison, fault: Fault, media: Path | None, file: Path, counts: dict[str, int]
) -> Sample | None:
    """Return a report as a row whose media stand beside ``file``; None if they are gone."""
    try:
        turns = conversation_of(comparison, KeptMedia(media, file.parent / "media"), fault.variant)
    except FileNotFoundError:
        counts["media gone"] += 1
        return None
    said = {answer.variant: answer.text for answer in comparison.answers}.get(fault.variant, "")
    turns = tuple(replace(turn, loss=turn.role != "assistant") for turn in turns)  # a model's own words
    if fault.correction.strip():
        turns = (*turns, Turn(role="assistant", parts=(Text(text=fault.correction.strip()),)))
    return Sample(
        turns=turns,
        file=Path(f"report {fault.id}"),
        groups={"domain": comparison.domain} if comparison.domain else {},
        source="reports",
        id=f"report-{fault.id}",
        extra={"said": said} | ({"wrong": fault.wrong} if fault.wrong else {}),
    )


def _question(row: Sample) -> str:
    return sample_key(replace(row, turns=row.prompt))


def _without_errors(rows: Iterable[Sample], file: Path) -> list[Sample]:
    """Return the rows that a check of the written file calls no errors."""
    rows = list(rows)
    if not rows:
        return []
    write_jsonl(file, rows)
    report = check(source_of(file), QuietLog())
    wrong = {finding.row for finding in report.findings if finding.error}
    file.unlink()
    return [row for number, row in enumerate(rows, 1) if number not in wrong]

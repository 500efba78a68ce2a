"""A set that has not changed since its last check is not checked again: one look at each file tells.

The report is kept under a hash of the data files' bytes, of the code and of the model; with it the names of
the media and one hash over their sizes, times and inodes. Only small sets and short reports are kept so.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cache import Kept
from studio.data.findings import kinds
from studio.data.findings.found import Finding, Report
from studio.data.findings.source import Source
from studio.data.kept_facts import Examined, Medium, code
from studio.files import folder_hash, sha256_file, stamp

if TYPE_CHECKING:
    from studio.families._gauge import Gauge

#: Media whose names are remembered, and findings that are kept.
MEDIA, FINDINGS = 200_000, 2_000


class Media:
    """The different media of a set: counted by 8 bytes each, the first `MEDIA` known by name."""

    def __init__(self) -> None:
        """Begin without one."""
        self._hashes = array("Q")
        self.names: set[str] | None = set()

    def add(self, examined: Mapping[Medium, Examined]) -> Iterator[int]:
        """Take the media of some rows; yield the rates of their sounds."""
        for (path, picture), one in examined.items():
            name = str(path)
            number = hashlib.blake2b(f"{picture:d}{name}".encode(errors="surrogateescape"), digest_size=8)
            self._hashes.append(int.from_bytes(number.digest(), "little"))
            if self.names is not None:
                self.names.add(name)
                if len(self.names) > MEDIA or "\n" in name:
                    self.names = None
            if one.facts.rate:
                yield one.facts.rate

    def __len__(self) -> int:
        """Return how many different media there were."""
        import numpy as np

        return len(np.unique(np.frombuffer(self._hashes, np.uint64))) if self._hashes else 0


def name_of(source: Source, gauge: Gauge | None) -> str:
    """Return the name under which the report of a set is kept; "" for one that is not kept."""
    if not source.own:
        return ""
    try:
        files = [[str(file), sha256_file(file)] for file in source.files]
    except OSError:
        return ""
    told = json.dumps([_code(), files, gauge.maker if gauge else "", str(gauge.folder) if gauge else ""])
    return f"check:{hashlib.sha256(told.encode()).hexdigest()}"


def recall(name: str, source: Source, kept: Kept) -> Report | None:
    """Return the report of an earlier check if no medium has changed since, else None."""
    text = kept.get([name]).get(name) if name else None
    if text is None:
        return None
    head, _, names = text.partition("\n")
    try:
        told = json.loads(head)
        if told["stamps"] != _stamps(names.split("\n") if names else []):
            return None
        findings = [
            Finding(row=row, file=Path(file), kind=kind, message=message, medium=_medium(medium))
            for row, file, kind, message, medium in told["findings"]
        ]
        return Report(
            files=source.files, rows=told["rows"], findings=findings, media=told["media"], rate=told["rate"]
        )
    except (ValueError, KeyError, TypeError):
        return None


def remember(name: str, report: Report, names: set[str] | None, kept: Kept) -> None:
    """Keep a report; not a long one, nor one that tells what the processor alone refused."""
    counts = report.counts()
    if not name or names is None or len(report.findings) > FINDINGS or kinds.REFUSED.name in counts:
        return
    media = sorted(names)
    told = {
        "stamps": _stamps(media),
        "rows": report.rows,
        "media": report.media,
        "rate": report.rate,
        "findings": [
            [f.row, str(f.file), f.kind, f.message, [str(f.medium[0]), f.medium[1]] if f.medium else None]
            for f in report.findings
        ],
    }
    try:
        kept.put({name: "\n".join([json.dumps(told), *media])})
    except UnicodeEncodeError:
        return  # a name that is not UTF-8


def _medium(value: list[object] | None) -> Medium | None:
    return (Path(str(value[0])), bool(value[1])) if value else None


def _stamps(media: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in media:
        digest.update(f"{stamp(name)}\n".encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """Return a hash over the code that reads rows and tells findings, and over the decoders."""
    here = Path(__file__).parent
    return f"{code()}:{folder_hash(here, ('*.py',))}:{folder_hash(here.parent, ('*.py',))}"

"""One finding, and the report that holds them all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.data.findings.kinds import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with one row: ``file`` and ``row`` (its line, from 1) say where.

    ``medium`` is the file it is about, and whether that is a picture, where it is about one.
    """

    row: int
    file: Path
    kind: str
    message: str
    medium: tuple[Path, bool] | None = None

    def __post_init__(self) -> None:
        """Spell out what cannot be shown or stored: a row may hold any character, and half of one."""
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.message)
        object.__setattr__(self, "message", shown)

    @property
    def about(self) -> Kind:
        """What is known of this kind of finding."""
        return KINDS[self.kind]

    @property
    def error(self) -> bool:
        """Whether it stops a training run."""
        return self.about.severity == "error"

    @property
    def sentence(self) -> str:
        """``file:line: what``, as a user's mistake is told."""
        return f"{self.file}:{self.row}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as it stands in check.json."""
        return {
            "row": self.row,
            "file": str(self.file),
            "kind": self.kind,
            "severity": self.about.severity,
            "message": self.message,
            "fix": self.about.fix,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found in ``rows`` rows of ``files``, in their order.

    ``media`` counts the different files; ``rate`` is the one that sounds should have (0: any).
    """

    files: Sequence[Path]
    rows: int
    findings: Sequence[Finding]
    media: int = 0
    rate: int = 0

    @property
    def errors(self) -> list[Finding]:
        """Those findings that stop a training run."""
        return [finding for finding in self.findings if finding.error]

    @property
    def error_count(self) -> int:
        """How many of the findings stop a training run."""
        return sum(count for name, count in self.counts().items() if KINDS[name].severity == "error")

    @property
    def told(self) -> str:
        """The report in one line."""
        errors = self.error_count
        what = f"{errors:,} errors, {len(self.findings) - errors:,} warnings"
        return f"{self.rows:,} rows, {self.media:,} media: {what if self.findings else 'nothing found'}"

    def counts(self) -> dict[str, int]:
        """Return how often each kind was found, errors first, then the most frequent."""
        own: Counter[str] | None = getattr(self.findings, "counts", None)
        count = own if own is not None else Counter(finding.kind for finding in self.findings)
        order = sorted(count, key=lambda name: (KINDS[name].severity, -count[name], name))
        return {name: count[name] for name in order}

    def as_json(self) -> dict[str, Any]:
        """Return the report as it stands in check.json."""
        return json.loads("".join(self.json_text()))  # type: ignore[no-any-return]

    def json_text(self) -> Iterator[str]:
        """Yield check.json piece by piece: it may be longer than would fit into memory."""
        yield f'{{\n "rows": {self.rows},\n "findings": ['
        for number, finding in enumerate(self.findings):
            yield ",\n  " if number else "\n  "
            yield json.dumps(finding.as_json(), indent=1, ensure_ascii=False).replace("\n", "\n  ")
        yield "\n ]\n}\n" if self.findings else "]\n}\n"

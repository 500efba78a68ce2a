"""One finding, and the report that holds them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.data.findings.kinds import KINDS, Kind
from studio.media_facts import Facts


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

    ``facts`` are those of all media; ``rate`` is the one that sounds should have (0: any).
    """

    files: Sequence[Path]
    rows: int
    findings: Sequence[Finding]
    facts: Mapping[tuple[Path, bool], Facts] = field(default_factory=dict)
    rate: int = 0

    @property
    def errors(self) -> list[Finding]:
        """Those findings that stop a training run."""
        return [finding for finding in self.findings if finding.error]

    @property
    def told(self) -> str:
        """The report in one line."""
        errors = len(self.errors)
        what = f"{errors:,} errors, {len(self.findings) - errors:,} warnings"
        return f"{self.rows:,} rows, {len(self.facts):,} media: {what if self.findings else 'nothing found'}"

    def counts(self) -> dict[str, int]:
        """Return how often each kind was found, errors first, then the most frequent."""
        count = Counter(finding.kind for finding in self.findings)
        order = sorted(count, key=lambda name: (KINDS[name].severity, -count[name], name))
        return {name: count[name] for name in order}

    def as_json(self) -> dict[str, Any]:
        """Return the report as it stands in check.json."""
        return {"rows": self.rows, "findings": [finding.as_json() for finding in self.findings]}

"""What a merge did: counts, and per module the rank, the energy kept and how long the result is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModuleReport:
    """One merged module or tensor.

    rank      of the result's factors; 0 for a tensor written whole
    energy    share of the merged delta's squared norm that the rank keeps
    norm      length of the merged delta (before it is cut to the rank)
    longest   length of the longest input delta
    """

    name: str
    rank: int
    energy: float
    norm: float
    longest: float

    @property
    def ratio(self) -> float:
        """How long the merged delta is in units of the longest input; far from 1 deserves a look."""
        return self.norm / self.longest if self.longest else 0.0


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """A finished merge. ``rounding`` is what storing cost: error over length of the merged delta.

    ``digests`` are the sha256 of tensors as they were written, until the lock file holds their sum.
    """

    out: Path
    kind: str
    method: str
    merged: int
    copied: int
    dropped: tuple[str, ...] = ()
    modules: tuple[ModuleReport, ...] = ()
    rounding: float = 0.0
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    fingerprint: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def norm(self) -> float:
        """The length of the whole merged delta."""
        return math.sqrt(sum(m.norm**2 for m in self.modules))

    @property
    def longest(self) -> float:
        """The length of a delta made of each module's longest input."""
        return math.sqrt(sum(m.longest**2 for m in self.modules))

    @property
    def energy(self) -> float:
        """The share of all merged deltas' squared norm that the chosen ranks keep."""
        total = sum(m.norm**2 for m in self.modules)
        return sum(m.energy * m.norm**2 for m in self.modules) / total if total else 1.0

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        found = dataclasses.asdict(self)
        return {**found, "out": str(self.out), "energy": self.energy}

    def text(self, full: bool = False) -> str:
        """Return the report for people; with ``full`` a line per module."""
        lines = [
            f"{self.method}: {self.merged} merged, {self.copied} copied, {len(self.dropped)} dropped "
            f"in {self.seconds:.1f} s -> {self.out}"
        ]
        if self.kind == "adapter":
            ranks = sorted({m.rank for m in self.modules})
            shown = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else "none"
            lines.append(f"  rank {shown}, energy kept {self.energy:.2%}")
        elif self.rounding:
            lines.append(f"  rounding to the stored type loses {self.rounding:.2%} of the change")
        lines += [f"  note: {warning}" for warning in self.warnings]
        if full:
            width = max((len(m.name) for m in self.modules), default=0)
            lines += [
                f"  {m.name:{width}}  rank {m.rank:4}  energy {m.energy:7.2%}  "
                f"norm {m.norm:9.3e}  ratio {m.ratio:.3f}"
                for m in self.modules
            ]
        return "\n".join(lines)

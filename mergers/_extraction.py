"""What an extraction kept of a fine-tune, for people: per module and over all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mergers._report import ModuleReport


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A finished extraction.

    modules    the modules with factors: rank, share of energy kept, length of the change
    kept       tensors stored whole -> length of their change
    lost       tensors whose change no adapter can hold -> its length
    unchanged  modules that are the base's
    """

    out: Path
    modules: tuple[ModuleReport, ...]
    kept: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    unchanged: int = 0
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def norm(self) -> float:
        """The length of the whole change."""
        parts = [*(m.norm for m in self.modules), *self.kept.values(), *self.lost.values()]
        return math.hypot(*parts)

    @property
    def energy(self) -> float:
        """The share of the whole change's squared length that the adapter holds."""
        held = sum(m.energy * m.norm**2 for m in self.modules) + sum(v**2 for v in self.kept.values())
        return held / self.norm**2 if self.norm else 1.0

    def text(self, full: bool = False) -> str:
        """Return the report for people; with ``full`` a line per module."""
        ranks = sorted({m.rank for m in self.modules})
        span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        lines = [
            f"extract: {len(self.modules)} modules at rank {span}, {len(self.kept)} tensors whole, "
            f"{len(self.lost)} lost, {self.unchanged} modules as they were in {self.seconds:.1f} s "
            f"-> {self.out}",
            f"  energy kept {self.energy:.2%} of a change of length {self.norm:.3e}",
        ]
        lines += [f"  note: {warning}" for warning in self.warnings]
        width = max(len(name) for name in [*(m.name for m in self.modules), *self.kept, *self.lost])
        if full:
            lines += [
                f"  {m.name:{width}}  rank {m.rank:4}  energy {m.energy:7.2%}  norm {m.norm:9.3e}"
                for m in self.modules
            ]
            lines += [f"  {n:{width}}  stored whole              norm {v:9.3e}" for n, v in self.kept.items()]
        lines += [f"  {n:{width}}  lost                      norm {v:9.3e}" for n, v in self.lost.items()]
        return "\n".join(lines)


def card(report: Extraction, base: str, tuned: str, rank: object) -> str:
    """Return the contents of README.md."""
    front = {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "triptych"],
    }
    lost = f" Lost: {', '.join(report.lost)}." if report.lost else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# What {Path(tuned).name} changed of {Path(base).name}",
            "",
            f"Extracted by Triptych from {tuned} at rank {rank}: {len(report.modules)} modules as factors, "
            f"{len(report.kept)} tensors whole, {report.energy:.2%} of the energy kept.{lost}",
            "",
        ]
    )

"""Exact duplicates: rows that say the same as an earlier row of their file, over the same media bytes.

Without ``strict`` small letters, punctuation and white space make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studio.data.identity import sample_key
from studio.data.steps._measured import digests
from studio.data.steps._step import Bench, Edit, Outcome, name_of, removal
from studio.data.steps._texts import folded, rewritten
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What counts as the same."""

    strict: bool = field(default=True, metadata={"help": "to the letter; else case and punctuation are free"})


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the later of two rows that say the same."""
    digest_of = digests(samples, bench)
    bench.log.stage("exact duplicates", len(samples), "rows")
    first: dict[tuple[Path, str], Sample] = {}
    edits: list[Edit] = []
    for sample in samples:
        bench.log.advance()
        seen = sample if settings.strict else rewritten(sample, folded) or sample
        key = sample_key(seen, digest_of)
        before = first.setdefault((sample.file, key), sample)
        if before is not sample:
            edits.append(removal(sample, f"says the same as {name_of(before, sample)}"))
    return Outcome(edits=edits)

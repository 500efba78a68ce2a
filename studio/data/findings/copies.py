"""What is found between rows: copies, ids given twice, leaks between splits, and groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.identity import sample_key
from studio.data.kept_facts import Medium
from studio.types import Sample

#: Values that say that nobody knew, in small letters.
NOT_KNOWN = frozenset({"", "?", "-", "unknown", "n/a", "na", "nan", "null", "undefined"})
#: A group's value in fewer rows is rare where the others are frequent.
RARE = 3
_USUAL = 10


def copies(samples: Sequence[Sample], digest_of: Callable[[Path], str]) -> Iterator[Finding]:
    """Yield rows that say the same as an earlier one, in their own file or in another split of the set."""
    first: dict[str, Sample] = {}
    for sample in samples:
        before = first.setdefault(sample_key(sample, digest_of), sample)
        if (before.file, before.line) == (sample.file, sample.line):
            continue  # itself, perhaps asked for twice
        if before.file == sample.file:
            yield _at(sample, kinds.DUPLICATE_ROW, f"says the same as line {before.line}")
        else:
            yield _at(sample, kinds.LEAK, f"the same row stands in {before.file.name}:{before.line}")


def leaked_media(samples: Sequence[Sample], digest_of: Callable[[Path], str]) -> Iterator[Finding]:
    """Yield rows with a medium whose bytes another split uses in a row that says something else."""
    first: dict[str, Sample] = {}
    for sample in samples:
        for path, picture in media_of(sample):
            digest = digest_of(path)
            before = first.setdefault(digest, sample) if digest else sample
            if before.file != sample.file:
                if sample_key(before, digest_of) != sample_key(sample, digest_of):
                    told = f"'{path.name}' has the same bytes as one of {before.file.name}:{before.line}"
                    yield _at(sample, kinds.LEAKED_MEDIUM, told, (path, picture))
                break


def repeated_ids(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield rows whose id an earlier row of the same file has."""
    first: dict[tuple[Path, str], int] = {}
    for sample in samples:
        name = getattr(sample, "id", None)
        if name:
            line = first.setdefault((sample.file, str(name)), sample.line)
            if line != sample.line:
                yield _at(sample, kinds.DUPLICATE_ID, f"has the id '{name}' of line {line}")


def groups(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield rows without a value in a group that nearly all rows have, and rows with a rare value.

    A value is rare when fewer than 3 rows have it while values of at least 10 rows make up nine tenths of
    the group: where most values are rare, as a speaker's number is, there is nothing to balance.
    """
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for name, said in sample.groups.items():
            values[name][said] += 1
    usual = {name for name, count in values.items() if 10 * sum(count.values()) >= 9 * len(samples)}
    rare: set[tuple[str, str]] = {
        (name, value)
        for name, count in values.items()
        if 10 * sum(n for n in count.values() if n >= _USUAL) >= 9 * sum(count.values())
        for value, often in count.items()
        if often < RARE
    }
    for sample in samples:
        for name in sorted(usual):
            value: str | None = sample.groups.get(name)
            if value is None or value.strip().lower() in NOT_KNOWN:
                told = "no group" if value is None else f"'{value}' as group"
                yield _at(sample, kinds.UNKNOWN_GROUP, f"has {told} '{name}', which nearly all rows know")
            elif (name, value) in rare:
                often = values[name][value]
                yield _at(sample, kinds.RARE_GROUP, f"is one of {often} with '{name}' = '{value}'")


def media_of(sample: Sample) -> list[Medium]:
    """Return the files that a sample uses, and which of them are pictures."""
    return [
        *((image.path, True) for image in sample.images),
        *((sound.path, False) for sound in sample.sounds),
    ]


def _at(sample: Sample, kind: kinds.Kind, message: str, medium: Medium | None = None) -> Finding:
    return Finding(row=sample.line, file=sample.file, kind=kind.name, message=message, medium=medium)

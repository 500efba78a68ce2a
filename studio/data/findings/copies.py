"""What is found between rows: copies, ids given twice, leaks between splits, and groups.

Rows are seen one after the other and not kept. Of each stays its place and a hash of what it says (26 bytes),
of each medium and id another hash. Rows of which something is to be told are then read a second time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.identity import sample_key
from studio.data.kept_facts import Medium
from studio.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Values that say that nobody knew, in small letters.
NOT_KNOWN = frozenset({"", "?", "-", "unknown", "n/a", "na", "nan", "null", "undefined"})
#: A group's value in fewer rows is rare where the others are frequent.
RARE = 3
_USUAL = 10
_HASH = 16


class Between:
    """What the rows of a set have in common; `see` each of them, then ask what was `found`."""

    def __init__(self) -> None:
        """Begin with no row."""
        self.rows = 0
        self._splits, self._places = array("H"), array("Q")
        self._said, self._ids, self._media = bytearray(), bytearray(), bytearray()
        self._id_rows, self._medium_rows = array("Q"), array("Q")
        self._values: dict[str, Counter[str]] = defaultdict(Counter)
        self._unknown = False

    def see(self, split: int, place: int, sample: Sample, digest_of: Callable[[Path], str]) -> None:
        """Take note of a row of split number ``split``, the ``place``-th of all that were read."""
        self._splits.append(split)
        self._places.append(place)
        self._said += bytes.fromhex(sample_key(sample, digest_of))[:_HASH]
        for path, _ in media_of(sample):
            digest = digest_of(path)
            self._media += bytes.fromhex(digest)[:_HASH] if digest else bytes(_HASH)
            self._medium_rows.append(self.rows)
        if sample.id:
            self._ids += hashlib.sha256(f"{split}:{sample.id}".encode()).digest()[:_HASH]
            self._id_rows.append(self.rows)
        for name, value in sample.groups.items():
            self._values[name][value] += 1
            self._unknown = self._unknown or value.strip().lower() in NOT_KNOWN
        self.rows += 1

    def found(self, again: Callable[[], Iterable[Sample]]) -> Iterator[tuple[int, Finding]]:
        """Yield what is to be told, with the place of its row; ``again`` yields the same rows once more."""
        copies = dict(_repeated(self._said))
        ids = {self._id_rows[at]: self._id_rows[first] for at, first in _repeated(self._ids)}
        leaks = self._leaks()
        usual, rare = self._usual(), self._rare()
        short = any(sum(self._values[name].values()) < self.rows for name in usual)
        if not (copies or ids or leaks or rare or (usual and (short or self._unknown))):
            return
        firsts = {*copies.values(), *ids.values(), *(first for first, _ in leaks.values())}
        known: dict[int, tuple[Path, int]] = {}
        for row, sample in enumerate(again()):
            place = self._places[row]
            if row in firsts:
                known[row] = sample.file, sample.line
            if row in copies and known[copies[row]] != (sample.file, sample.line):  # or it is asked for twice
                yield place, self._copy(row, copies[row], sample, known[copies[row]])
            if row in leaks:
                first, number = leaks[row]
                medium, (file, line) = media_of(sample)[number], known[first]
                told = f"'{medium[0].name}' has the same bytes as one of {file.name}:{line}"
                yield place, _at(sample, kinds.LEAKED_MEDIUM, told, medium)
            if row in ids and known[ids[row]] != (sample.file, sample.line):
                told = f"has the id '{sample.id}' of line {known[ids[row]][1]}"
                yield place, _at(sample, kinds.DUPLICATE_ID, told)
            for finding in self._groups(sample, usual, rare):
                yield place, finding

    def _copy(self, row: int, first: int, sample: Sample, where: tuple[Path, int]) -> Finding:
        file, line = where
        if self._splits[row] != self._splits[first]:
            return _at(sample, kinds.LEAK, f"the same row stands in {file.name}:{line}")
        there = f"line {line}" if file == sample.file else f"{file.name}:{line}"
        return _at(sample, kinds.DUPLICATE_ROW, f"says the same as {there}")

    def _leaks(self) -> dict[int, tuple[int, int]]:
        """Return each row with a medium of another split in a row that says something else, and which one."""
        found: dict[int, tuple[int, int]] = {}
        settled: set[int] = set()
        if len(set(self._splits)) < 2:
            return found
        for at, first in _repeated(self._media):
            row, before = self._medium_rows[at], self._medium_rows[first]
            if row in settled or self._splits[row] == self._splits[before]:
                continue
            settled.add(row)
            if self._key(row) != self._key(before):
                number = 0
                while at - number > 0 and self._medium_rows[at - number - 1] == row:
                    number += 1
                found[row] = before, number
        return found

    def _key(self, row: int) -> bytes:
        return bytes(self._said[row * _HASH : (row + 1) * _HASH])

    def _usual(self) -> set[str]:
        """Return the groups in which nearly all rows have a value."""
        return {name for name, count in self._values.items() if 10 * sum(count.values()) >= 9 * self.rows}

    def _rare(self) -> set[tuple[str, str]]:
        """Return the rare values of groups.

        A value is rare when fewer than 3 rows have it while values of at least 10 rows make up nine tenths
        of the group: where most values are rare, as a speaker's number is, there is nothing to balance.
        """
        return {
            (name, value)
            for name, count in self._values.items()
            if 10 * sum(n for n in count.values() if n >= _USUAL) >= 9 * sum(count.values())
            for value, often in count.items()
            if often < RARE
        }

    def _groups(self, sample: Sample, usual: set[str], rare: set[tuple[str, str]]) -> Iterator[Finding]:
        for name in sorted(usual):
            value: str | None = sample.groups.get(name)
            if value is None or value.strip().lower() in NOT_KNOWN:
                told = "no group" if value is None else f"'{value}' as group"
                yield _at(sample, kinds.UNKNOWN_GROUP, f"has {told} '{name}', which nearly all rows know")
            elif (name, value) in rare:
                often = self._values[name][value]
                yield _at(sample, kinds.RARE_GROUP, f"is one of {often} with '{name}' = '{value}'")


def _repeated(hashes: bytearray) -> Iterator[tuple[int, int]]:
    """Yield the number of each hash that stood before, with that of the first; zeros are no hash.

    Only what shares its first half with another is put in order whole: a second copy of all would be large.
    """
    import numpy as np

    if not hashes:
        return
    whole = np.frombuffer(bytes(hashes), np.uint64).reshape(-1, 2)
    half: NDArray[np.uint64] = np.sort(whole[:, 0])
    twice: NDArray[np.uint64] = np.unique(half[1:][half[1:] == half[:-1]])
    twice = twice[twice != 0]
    if not len(twice):
        return
    found = np.minimum(np.searchsorted(twice, whole[:, 0]), len(twice) - 1)
    (some,) = np.nonzero(twice[found] == whole[:, 0])
    first: dict[Any, int] = {}
    for at in some.tolist():
        before = first.setdefault(whole[at].tobytes(), at)
        if before != at:
            yield at, before


def media_of(sample: Sample) -> list[Medium]:
    """Return the files that a sample uses, and which of them are pictures."""
    return [
        *((image.path, True) for image in sample.images),
        *((sound.path, False) for sound in sample.sounds),
    ]


def _at(sample: Sample, kind: kinds.Kind, message: str, medium: Medium | None = None) -> Finding:
    return Finding(row=sample.line, file=sample.file, kind=kind.name, message=message, medium=medium)

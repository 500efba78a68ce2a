"""Findings in the order of their rows, of which only the first ten thousand stand in memory."""

from __future__ import annotations

import heapq
import json
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

from studio.data.findings.found import Finding

#: So many findings stand in memory; further ones go to a file without a name, which ends with this process.
IN_MEMORY = 10_000


class Findings(Sequence[Finding]):
    """Findings one behind the other; ``counts`` are by kind."""

    def __init__(self) -> None:
        """Begin without one."""
        self.counts: Counter[str] = Counter()
        self._first: list[Finding] = []
        self._rest: IO[bytes] | None = None
        self._begins = array("Q")
        self._places = array("Q")
        self._end = 0

    def add(self, finding: Finding, place: int = 0) -> None:
        """Add one; ``place`` is the number of its row among all rows, by which `merged` puts it in order."""
        self.counts[finding.kind] += 1
        self._places.append(place)
        if len(self._first) < IN_MEMORY:
            self._first.append(finding)
            return
        if self._rest is None:
            self._rest = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._rest.close)
        self._rest.seek(self._end)
        self._begins.append(self._end)
        self._end += self._rest.write(json.dumps(_values(finding)).encode() + b"\n")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Finding: ...
    @overload
    def __getitem__(self, at: slice) -> list[Finding]: ...
    def __getitem__(self, at: int | slice) -> Finding | list[Finding]:
        """Return one, or those of a slice."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"finding {at} of {len(self)}")
        if place < len(self._first):
            return self._first[place]
        assert self._rest is not None
        self._rest.seek(self._begins[place - len(self._first)])
        return _finding(json.loads(self._rest.readline()))

    def __iter__(self) -> Iterator[Finding]:
        """Yield all in order."""
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Say whether ``other`` holds the same findings in the same order."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def placed(self) -> Iterator[tuple[int, Finding]]:
        """Yield all with the places that they were added with."""
        return zip(self._places, self, strict=True)


def merged(streams: Sequence[Findings]) -> Findings:
    """Return the findings of several streams by place; of one place, those of the first stream first."""
    made = Findings()
    for place, finding in heapq.merge(*(one.placed() for one in streams), key=lambda pair: pair[0]):
        made.add(finding, place)
    return made


def _values(finding: Finding) -> list[Any]:
    medium = [str(finding.medium[0]), finding.medium[1]] if finding.medium else None
    return [finding.row, str(finding.file), finding.kind, finding.message, medium]


def _finding(values: list[Any]) -> Finding:
    row, file, kind, message, medium = values
    place = (Path(medium[0]), medium[1]) if medium else None
    return Finding(row=row, file=Path(file), kind=kind, message=message, medium=place)

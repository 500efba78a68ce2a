"""Rows read at random from a data file of any size, in memory that does not grow with it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from studio.data.jsonl import bare_line, samples
from studio.data.parquet import parquet_row
from studio.data.rows import Folder, read_row, sample_of
from studio.errors import DataError
from studio.files import stamp
from studio.types import Sample

MARKS = 1 << 16
"""Most marks an index holds: 1 MiB. A file with more rows gets a mark every second, fourth ... row."""


class Rows(Sequence[Sample]):
    """The rows of a data file as a sequence: checked once from end to end, then read one at a time.

    The index holds the byte offset and the line number of every ``step``-th row, at most `MARKS` of them;
    when they are full, every second one is dropped and ``step`` doubles. Reading a row skips less than
    ``step`` lines: none up to 65,536 rows, at most 15 in a file of a million. A Parquet file is its own
    index: reading a row reads its row group.
    """

    def __init__(self, path: Path | str) -> None:
        """Check and index the file.

        Raises:
            DataError: naming all wrong rows together, as `studio.data.samples` does.
        """
        self.path = Path(os.path.abspath(path))
        self.step = 1
        self._folder = Folder(self.path.parent)
        self._offsets, self._lines = array("Q"), array("Q")
        self._count = 0
        self._parquet = self.path.suffix == ".parquet"
        for sample, offset in samples_with_offsets(self.path):
            if not self._parquet and self._count % self.step == 0:
                self._mark(offset, sample.line)
            self._count += 1
        self._stamp = stamp(self.path)

    def _mark(self, offset: int, line: int) -> None:
        if len(self._offsets) == MARKS:
            self._offsets, self._lines = self._offsets[::2], self._lines[::2]
            self.step *= 2
            if self._count % self.step:
                return
        self._offsets.append(offset)
        self._lines.append(line)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._count

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        """Return one row, or the rows of a slice.

        Raises:
            IndexError: if there is no such row.
            DataError: if the file was changed after it was indexed.
        """
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self._count))]
        place = at + self._count if at < 0 else at
        if not 0 <= place < self._count:
            raise IndexError(f"row {at} of {self._count}")
        if stamp(self.path) != self._stamp:
            raise DataError(f"data file '{self.path}' was changed while it was in use")
        if self._parquet:
            return sample_of(parquet_row(self.path, place), self._folder, self.path, place + 1)
        mark, left = divmod(place, self.step)
        with open(self.path, "rb") as file:
            file.seek(self._offsets[mark])
            for number, raw in enumerate(file, start=self._lines[mark]):
                line = bare_line(raw, number)
                if not line:
                    continue
                if not left:
                    return read_row(line, self._folder, self.path, number)
                left -= 1
        raise DataError(f"data file '{self.path}' was changed while it was in use")

    def __iter__(self) -> Iterator[Sample]:
        """Yield all rows in order, in one pass."""
        return samples(self.path)


def samples_with_offsets(path: Path) -> Iterator[tuple[Sample, int]]:
    """Yield every sample of a data file with the byte offset at which its line begins (0 in Parquet)."""
    offsets = [0]

    def begins(offset: int) -> None:
        offsets[:] = [offset]

    for sample in samples(path, begins):
        yield sample, offsets[0]

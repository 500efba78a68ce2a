"""Where the rows of a check come from: our own files, or data of any format that `triptych convert` reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from studio import plugins
from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.findings.rows import read_rows
from studio.data.formats._convert import ROOM, detect, splits
from studio.data.formats._ledger import Ledger
from studio.data.jsonl import data_splits, find_data
from studio.errors import DataError, unknown
from studio.types import Sample

Read = tuple[int, Sample | Finding]
OWN = (".jsonl", ".parquet")
#: Rows that are looked at to tell our own from those of other tools.
_LOOKED_AT = 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data to check: ``path`` as it was given, its ``files``, its ``format``, and ``why`` it is that.

    ``why`` is empty for rows of ours; ``split`` is the only one that is asked for, or None.
    """

    path: Path
    files: tuple[Path, ...]
    format: str = "triptych"
    why: str = ""
    split: str | None = None

    @property
    def own(self) -> bool:
        """Whether the rows are ours as they stand, and can be trained on."""
        return not self.why

    @contextmanager
    def opened(self) -> Iterator[Callable[[], Iterable[Read]]]:
        """Yield a function that reads all rows from the beginning, with the numbers of their splits.

        What containers hold is unpacked to a temporary folder, which the block ends with.
        """
        if self.own:
            yield lambda: ((split, row) for split, file in enumerate(self.files) for row in read_rows(file))
            return
        with tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
            yield lambda: self._imported(Path(scratch))

    def _imported(self, scratch: Path) -> Iterator[Read]:
        module = plugins.load(ROOM, self.format)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        for number, (name, places) in enumerate(splits(module, self.path).items()):
            if self.split not in (None, name):
                continue
            for place in places:
                ledger = _Findings(folder, place)
                try:
                    for sample in module.read(place, ledger):
                        yield from ((number, finding) for finding in ledger.taken())
                        yield number, sample
                except OSError as error:
                    told = error.strerror or error
                    raise DataError(f"'{error.filename or place}' cannot be read ({told})") from None
                yield from ((number, finding) for finding in ledger.taken())

    def one_split(self) -> Source:
        """Return the split that is meant where one is shown: train, if there are several."""
        if self.own:
            return native(self.files[-1:])
        names = list(splits(plugins.load(ROOM, self.format), self.path))
        return replace(self, split=self.split or max(names, key=lambda name: "train" in name))

    def rows_expected(self) -> int:
        """Return about how many rows there are, to show how far a check has come; 0 if that is not known."""
        return sum(_rows_in(file) for file in self.files)

    def stamp(self) -> list[tuple[int, int]]:
        """Return the sizes and times of the files."""
        found = []
        for file in self.files:
            try:
                status = os.stat(file)
            except OSError:
                continue
            found.append((status.st_size, status.st_mtime_ns))
        return found


class _Findings(Ledger):
    """A ledger that makes findings of the rows that cannot be read."""

    def __init__(self, scratch: Path, place: Path) -> None:
        super().__init__(scratch)
        self._place, self._wrong = place, list[Finding]()

    def refuse(self, where: str, problem: object) -> None:
        super().refuse(where, problem)
        file, _, line = where.rpartition(":")
        known = file and line.isdecimal()
        self._wrong.append(
            Finding(
                row=int(line) if known else 1,
                file=Path(file if known else where) if where else self._place,
                kind=_kind_of(str(problem)).name,
                message=str(problem),
            )
        )

    def taken(self) -> list[Finding]:
        """Return what was refused since the last time."""
        found, self._wrong = self._wrong, []
        return found


def _kind_of(problem: str) -> kinds.Kind:
    if problem.startswith("media file '") and " does not exist " in problem:
        return kinds.MISSING
    return kinds.PATH if problem.startswith("media path '") else kinds.ROW


def native(files: Sequence[Path]) -> Source:
    """Return our own data files, the splits of one set, as a source.

    Raises:
        DataError: if there is none.
    """
    if not files:
        raise DataError("there is no data file")
    absolute = tuple(Path(os.path.abspath(file)) for file in files)
    return Source(path=absolute[0], files=absolute)


def source_of(path: Path, split: str | None = None, format: str | None = None) -> Source:
    """Return what is to be checked at ``path``: our own rows if there are any, else what it is found to be.

    Raises:
        DataError: if there is no data, no such split, or it looks like no format or like several.
    """
    if format is None:
        files, problem = _own_files(path, split)
        if files and (_readable(files) or not _detected(path)):
            return native(files)
        if not path.exists() or (split and problem and "unknown split" in str(problem)):
            raise problem or DataError(f"data '{path}' does not exist")
    name, why = (plugins.canonical(ROOM, format), "--from says so") if format else detect(path)
    module = plugins.load(ROOM, name)
    found = splits(module, path)
    if split is not None and split not in found:
        raise DataError(f"data '{path}': {unknown('split', split, found)}")
    places = [place for one, several in found.items() if split in (None, one) for place in several]
    return Source(path=path, files=tuple(map(_absolute, places)), format=name, why=why, split=split)


def data_files(path: Path, split: str | None = None) -> list[Path]:
    """Return our own data files: one file, one split of a folder, or all its splits, train last.

    What stands in two splits is then found in train, where a row can best be spared.

    Raises:
        DataError: if there is none.
    """
    if path.is_dir() and split is None:
        found = sorted(data_splits(path).items(), key=lambda pair: ("train" in pair[0], pair[0]))
        if found:
            return [file for _, file in found]
    file = find_data(path, split)
    if file.suffix not in OWN:
        raise DataError(
            f"'{path}' is neither .jsonl nor .parquet; `triptych convert {path} OUT --to triptych` makes "
            "rows of other tools' data"
        )
    return [file]


def _own_files(path: Path, split: str | None) -> tuple[list[Path], DataError | None]:
    try:
        return data_files(path, split), None
    except DataError as error:
        return [], error


def _readable(files: Sequence[Path]) -> bool:
    """Say whether one of the first rows is a row of ours."""
    try:
        return any(isinstance(row, Sample) for file in files for row in islice(read_rows(file), _LOOKED_AT))
    except DataError:
        return False


def _detected(path: Path) -> bool:
    """Say whether the data are of another format than ours."""
    try:
        return detect(path)[0] not in ("triptych", "parquet")
    except DataError:
        return False


def _absolute(place: Any) -> Path:
    return Path(os.path.abspath(place))


def _rows_in(file: Path) -> int:
    if file.suffix != ".jsonl":
        return 0
    count = 0
    try:
        with open(file, "rb") as lines:
            while block := lines.read(1 << 20):
                count += block.count(b"\n")
    except OSError:
        return 0
    return count

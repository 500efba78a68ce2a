"""WebDataset's tar shards: the files of one sample share a name up to its first dot and stand side by side.

    train-000000.tar:  000000.json  000000.txt  000000.0.png  000001.json  ...

``NAME.json`` is a row of ours whose media are named by the rest of their name (``0.png``); ``NAME.txt``
repeats the answer for readers of pairs. On the way in a medium with ``.txt``, ``.cls`` or ``.json``
(columns as in `csv`) will do. Nothing is lost; refused are media whose suffix is of no picture and no
sound. Links, devices, names that lead out and bombs are refused with one sentence.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from studio.data.formats import _columns
from studio.data.formats._ledger import Held, Ledger, kind
from studio.data.formats._look import data_files
from studio.data.formats._rows import Values, samples_of
from studio.data.formats._tags import listed
from studio.data.formats._tar import forget, members, told, unpack
from studio.data.parquet import columns, native
from studio.data.rows import row_of
from studio.errors import DataError
from studio.types import Sample, Text

SUFFIXES = (".tar", ".tgz", ".gz")
SHARD = 256 << 20
"""A shard is closed when it holds so many bytes."""
_TEXTS = ("txt", "cls", "text", "caption", "transcript")
_LONGEST = 16 << 20
_MOST = 4096  # files of one sample


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    files = [file for file in data_files(path, SUFFIXES) if tarfile_like(file)]
    return (
        f"{files[0].name} is a tar file" + (f", one of {len(files)}" if files[1:] else "") if files else None
    )


def tarfile_like(file: Path) -> bool:
    """Return whether the name of a file is that of a tar file."""
    return file.name.endswith((".tar", ".tar.gz", ".tgz"))


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one shard; the line of a sample is its number in the shard."""
    if not tarfile_like(path):
        raise DataError(f"'{path}' is no tar file; take it out of the folder")
    yield from samples_of(path, enumerate(_rows(path, ledger), start=1), ledger, _decode, path.parent)


def _rows(path: Path, ledger: Ledger) -> Iterator[Any]:
    """Yield the files of every sample by what follows its name, or the `DataError` it gave."""
    try:
        with told():
            for key, files in groupby(members(path), lambda member: _split(member[0])[0]):
                yield _sample(key, files, ledger)
    except DataError as error:
        yield error


def _sample(key: str, files: Iterable[tuple[str, int, Any]], ledger: Ledger) -> Values | DataError:
    """Return the files of one sample; all of them are read, so that the next sample begins after them."""
    found: Values = {"": key}
    problem = None
    for name, size, file in files:
        ending = _split(name)[1]
        try:
            if ending in found or len(found) > _MOST:
                raise DataError(f"sample '{key}' has two files '{ending}', or more than {_MOST}")
            if kind(name):
                found[ending] = unpack(Path(name).name, size, file, ledger)
            elif ending == "json" or ending in _TEXTS:
                found[ending] = _text(name, size, file)
            else:
                raise DataError(f"'{name}' is no picture, no sound, no text and no JSON")
        except DataError as error:
            problem = problem or error
    return problem or found


def _split(name: str) -> tuple[str, str]:
    """Return a sample's name and what of a file's name follows it."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending


def _text(name: str, size: int, file: Any) -> str:
    if size > _LONGEST:
        raise DataError(f"'{name}' has {size} bytes; allowed: {_LONGEST}")
    try:
        return bytes(file.read(size)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"'{name}' is not UTF-8") from None


def _decode(found: Values, ledger: Ledger) -> Values:
    """Return the row of ours for the files of one sample."""
    key = found.pop("")
    more: Any = {}
    if "json" in found:
        try:
            more = json.loads(found.pop("json"))
        except (ValueError, RecursionError):
            raise DataError(f"'{key}.json' is not valid JSON") from None
        if not isinstance(more, dict):
            raise DataError(f"'{key}.json' must hold one object")
    media = {ending: value for ending, value in found.items() if isinstance(value, Held)}
    texts = {ending: value for ending, value in found.items() if ending not in media}
    if "messages" in more:
        return _own(more, media, texts, key)
    for text in texts.values():
        more = {"answer": text.removesuffix("\n")} | more
    named = {what: [place for place in media.values() if kind(place) == what] for what in ("image", "audio")}
    return _columns.decode(more | {what: places for what, places in named.items() if places}, ledger)


def _own(row: Values, media: dict[str, Held], texts: Values, key: str) -> Values:
    left = dict(media)
    row = native(row)  # one type in each column, as readers by column want it

    def part(value: Any) -> Any:
        if isinstance(value, dict) and "path" in value:
            name = value["path"]
            if not isinstance(name, str) or name not in media:
                raise DataError(f"'{key}.json' names the medium '{name}', which the sample does not have")
            left.pop(name, None)
            return value | {"path": media[name]}
        return value

    messages = row["messages"] if isinstance(row["messages"], list) else []
    for message in messages:
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            message["content"] = [part(value) for value in message["content"]]
    if left:
        raise DataError(f"sample '{key}' has the medium '{min(left)}', which its JSON does not name")
    answer = messages[-1].get("content") if messages and isinstance(messages[-1], dict) else None
    parts = listed(answer) if isinstance(answer, (str, list)) else []
    said = "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    if "txt" in texts and texts["txt"] != said:
        raise DataError(f"'{key}.txt' and the last message in '{key}.json' differ")
    return row


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write shards ``split``-000000.tar and so on, with all media inside; return the number of rows."""
    shards = _Shards(folder, split)
    count = 0
    try:
        for sample in samples:
            with ledger.row(sample.where):
                row, media = _named(sample)
                files = {"json": json.dumps(columns(row), ensure_ascii=False).encode()}
                if sample.answer and sample.answer[0] != "\ufeff":
                    files["txt"] = sample.answer.encode()
                shards.add(f"{count:06d}", files, media)
                ledger.good += 1
                count += 1
    finally:
        shards.close()
    return count


def _named(sample: Sample) -> tuple[Values, dict[str, Path]]:
    """Return the row of ours with its media named by number, and the media by name."""
    media: dict[str, Path] = {}
    row = row_of(sample, Path("/"))
    for message, turn in zip(row["messages"], sample.turns, strict=True):
        if isinstance(message["content"], list):
            for value, part in zip(message["content"], turn.parts, strict=True):
                if isinstance(part, Text):
                    continue
                known = [name for name, path in media.items() if path == part.path]
                value["path"] = known[0] if known else f"{len(media)}{part.path.suffix.lower()}"
                if kind(value["path"]) is None:
                    raise DataError(f"media file '{part.path}' has the suffix of no picture and no sound")
                media[value["path"]] = part.path
    return row, media


class _Shards:
    """Tar files that follow each other, each closed when it is full."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split, self._number = folder, split, -1
        self._archive: tarfile.TarFile | None = None

    def add(self, name: str, files: dict[str, bytes], media: dict[str, Path]) -> None:
        """Write the files of one sample side by side."""
        if self._archive is None or self._archive.offset > SHARD:
            self.close()
            self._number += 1
            self._archive = tarfile.open(  # noqa: SIM115
                self._folder / f"{self._split}-{self._number:06d}.tar", "w", format=tarfile.PAX_FORMAT
            )
        for ending, data in files.items():
            self._put(f"{name}.{ending}", io.BytesIO(data), len(data))
        for ending, path in media.items():
            try:
                file = open(path, "rb")  # noqa: SIM115
            except OSError as error:
                raise DataError(f"media file '{path}' cannot be read ({error.strerror})") from None
            with file:
                self._put(f"{name}.{ending}", file, path.stat().st_size)

    def _put(self, name: str, file: Any, size: int) -> None:
        assert self._archive is not None
        member = tarfile.TarInfo(name)
        member.size = size
        self._archive.addfile(member, file)
        forget(self._archive)

    def close(self) -> None:
        """Finish the shard that is open."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

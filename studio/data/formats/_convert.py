"""From one format to another: find out what it is, read it row by row, write it whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from studio import plugins
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import data_files
from studio.errors import ConfigError, DataError, unknown
from studio.files import atomic_folder
from studio.log import Log, QuietLog
from studio.types import Sample

ROOM = "formats"
SKIPPED = "skipped.txt"
_SHARD = re.compile(r"-\d+(-of-\d+)?$")
_SHARDED = (".tar", ".tgz", ".gz", ".parquet", ".arrow")
_WEAK = ("triptych", "sharegpt")  # what they look like is also what others look like in a row without media
_EVERY = 2.0
_PLAIN = {"quiet": "loss", "cuts": "borders of texts", "ask": "where the preference begins"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted: from which format and why, rows by split, what was left out or only kept."""

    source: str
    why: str
    target: str
    folder: Path
    splits: dict[str, int]
    skipped: tuple[str, ...]
    unseen: tuple[str, ...]


def detect(path: Path | str) -> tuple[str, str]:
    """Return the format of the data at ``path``, and why it is taken for that.

    Raises:
        DataError: if it looks like none or like several; the sentence lists them.
    """
    path = Path(path)
    if not path.exists():
        near = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(
            f"data '{path}' does not exist" + (f"; {unknown('name', path.name, near[:20])}" if near else "")
        )
    found = {}
    for name in plugins.names(ROOM):
        if reason := plugins.load(ROOM, name).detect(path):
            found[name] = reason
    strong = {name: reason for name, reason in found.items() if name not in _WEAK}
    known = strong or found
    if not known:
        raise DataError(
            f"'{path}' looks like none of the formats {', '.join(plugins.names(ROOM))}; name one with --from"
        )
    if len(known) > 1:
        told = " and ".join(f"{name} ({reason})" for name, reason in known.items())
        raise DataError(f"'{path}' looks like {told}; name one with --from")
    return next(iter(known.items()))


def splits(module: ModuleType, path: Path) -> dict[str, list[Path]]:
    """Return what ``read`` is to be called with, by split; shards of one split stand together.

    Raises:
        DataError: if there is nothing of that format.
    """
    if hasattr(module, "splits"):
        if path.is_file() and not hasattr(module, "SUFFIXES"):
            raise DataError(f"'{path}' is a file; this format is a folder")
        places = {_SHARD.sub("", name): [place] for name, place in module.splits(path).items()}
        return places
    found: dict[str, list[Path]] = {}
    for file in data_files(path, module.SUFFIXES):
        name = file.name.partition(".")[0] if file.suffix in (".gz", ".tgz") else file.stem
        found.setdefault(_SHARD.sub("", name) if file.suffix in _SHARDED else name, []).append(file)
    if not found:
        raise DataError(f"'{path}' holds no file with the suffix {' or '.join(module.SUFFIXES)}")
    return found


def read(
    path: Path | str, ledger: Ledger, source: str | None = None
) -> Iterator[tuple[str, Iterator[Sample]]]:
    """Yield every split's name and samples, in the format ``source`` or the one that is detected.

    Rows that are wrong go into ``ledger``; call its ``settle`` at the end.

    Raises:
        DataError: if the format is not known, or a file cannot be read on.
    """
    name = source or detect(path)[0]
    module = plugins.load(ROOM, name)
    for split, places in splits(module, Path(path)).items():
        yield split, (sample for place in places for sample in _readable(module, place, ledger))


def _readable(module: ModuleType, place: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file or folder; what the system refuses to read is one sentence.

    Raises:
        DataError: if it cannot be read; an `OSError` about what is being written goes on as it is.
    """
    try:
        yield from module.read(place, ledger)
    except OSError as error:
        if error.errno in _FULL or str(error.filename).startswith(str(ledger.scratch)):
            raise
        raise DataError(f"'{error.filename or place}' cannot be read ({error.strerror or error})") from None


def convert(
    path: Path | str,
    out: Path | str,
    target: str,
    *,
    source: str | None = None,
    skip: int = 0,
    media: Path | None = None,
    link: bool = False,
    log: Log | None = None,
) -> Conversion:
    """Write the data at ``path`` in the format ``target`` into the new folder ``out``, whole or not at all.

    Args:
        path: a file or a folder; it is not changed.
        out: a folder that is not there yet, or is empty.
        target: the format to write.
        source: the format to read; detected if it is left out.
        skip: how many rows may be wrong; they are named in ``out``/skipped.txt.
        media: the folder that media paths are relative to, if it is not that of the data file.
        link: hard-link media instead of copying them.
        log: told how many rows are done.

    Raises:
        DataError: naming the rows that are wrong, if they are more than ``skip``.
        ConfigError: if ``out`` is there, or lies where it cannot.
        UnknownName: if there is no such format.
    """
    path, out = Path(path), Path(out)
    writer, target = plugins.load(ROOM, target), plugins.canonical(ROOM, target)
    source, why = (plugins.canonical(ROOM, source), "--from says so") if source else detect(path)
    _require_new(out, path)
    if media is not None and not media.is_dir():
        raise ConfigError(f"--media {media} is no folder")
    rows: dict[str, int] = {}
    with atomic_folder(out) as folder:
        scratch = (
            folder / ".unpacked"
        )  # on the same disk, so that media can be linked, and swept with the rest
        scratch.mkdir()
        ledger = Ledger(scratch, media=media, skip=skip, link=link)
        for split, samples in read(path, ledger, source):
            rows[split] = writer.write(_told(samples, split, log or QuietLog()), folder, split, ledger)
        ledger.settle()
        shutil.rmtree(scratch)
        if ledger.refused:
            text = "\n".join(ledger.refused) + "\n"
            (folder / SKIPPED).write_text(text, encoding="utf-8", errors="replace")
    return Conversion(
        source=source,
        why=why,
        target=target,
        folder=out,
        splits=rows,
        skipped=tuple(ledger.refused),
        unseen=tuple(sorted(_PLAIN.get(name, name) for name in ledger.unseen)),
    )


def _require_new(out: Path, path: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"'{out}' is there already; name a new folder, nothing is changed in place")
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"'{out}' lies inside '{path}', which is not changed; name a folder elsewhere")


def _told(samples: Iterable[Sample], split: str, log: Log) -> Iterator[Sample]:
    last, count = time.monotonic(), 0
    for count, sample in enumerate(samples, start=1):
        yield sample
        if (now := time.monotonic()) - last > _EVERY:
            log.say(f"  {split}: {count} rows")
            last = now

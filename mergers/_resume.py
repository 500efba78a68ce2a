"""A merge that was killed goes on where it stopped, and ends with the same bytes.

The output grows in a hidden folder beside its final place, named after the merge's key: recipe, inputs and
versions. A journal there lists the finished tensors; it is written after their bytes are on the disk. The
same merge started again finds the folder and skips them; any other merge to the same place removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from mergers._inputs import Opened
from mergers._lock import version
from mergers._meeting import HELD, LostProcess
from mergers._plan import Plan
from mergers._told import statistics_file
from studio.adapters import Adapter
from studio.errors import MergeError
from studio.files import atomic_folder
from studio.statistics import KINDS as STATISTICS

JOURNAL = HELD
#: Seconds of work that a kill may cost.
EVERY = 0.2
#: Seconds for which another process's journal is waited for.
PATIENCE = 10.0


class Journal:
    """The finished tensors of a merge, with what the report needs to know of them."""

    def __init__(self, file: Path) -> None:
        """Open the journal, reading what an earlier run finished; only one process may hold it."""
        self._stream = file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise MergeError(f"another process is merging into {file.parent}") from None
        self._stream.seek(0)
        self.done: dict[str, dict[str, Any]] = {}
        whole = 0
        for line in self._stream.read().splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # the kill came while this line was written
            try:
                entry = json.loads(line)
                self.done[entry.pop("name")] = entry
            except (ValueError, KeyError):
                break
            whole += len(line.encode())
        self._stream.truncate(whole)
        self._waiting: list[str] = []
        self._told = time.monotonic()

    def add(self, name: str, facts: dict[str, Any], descriptors: list[int]) -> None:
        """Note a finished tensor; every few seconds flush the weights, then the notes."""
        self._waiting.append(json.dumps({"name": name, **facts}))
        if time.monotonic() - self._told >= EVERY:
            self.flush(descriptors)

    def flush(self, descriptors: list[int]) -> None:
        """Flush the weights to the disk, then the notes."""
        for descriptor in descriptors:
            os.fdatasync(descriptor)
        self._stream.write("".join(f"{line}\n" for line in self._waiting))
        self._stream.flush()
        self._waiting.clear()
        self._told = time.monotonic()

    def close(self) -> None:
        """Let go of the journal."""
        self._stream.close()


def merge_key(planned: Plan, opened: Opened, device: str = "cpu") -> str:
    """Return what must be equal for a stopped merge to go on: recipe, inputs as they are now, versions.

    Of the ``device`` its kind: another may round a sum otherwise.
    """
    recipe = {
        k: v for k, v in planned.spec.to_mapping().items() if k not in ("threads", "max_ram", "selftest")
    }
    checkpoints = [m.checkpoint if isinstance(m, Adapter) else m for m in opened.models]
    files = [f for c in (*checkpoints, *([opened.base] if opened.base else [])) for f in c.files]
    for kind in STATISTICS:
        told = (statistics_file(model, kind) for model in planned.spec.models)
        files += [file for file in told if file is not None and file.is_file()]
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    versions = [sys.version, version("torch"), version("numpy"), planned.donor, device.partition(":")[0]]
    return sha256(json.dumps([recipe, stats, versions], default=str).encode()).hexdigest()[:16]


@contextmanager
def workspace(out: Path, key: str) -> Iterator[tuple[Path, Journal]]:
    """Yield the folder in which a merge grows, and its journal; at the end the folder takes its place.

    An error removes the folder; an interrupt, a kill or a lost process leaves it to be gone on from.
    """
    target = Path(os.path.realpath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.merge-{key}")
    for other in target.parent.glob(f".{target.name}.merge-*"):
        if other != folder and not _in_use(other):
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / JOURNAL)
    try:
        for other in others(folder):
            journal.done |= finished_by(other)
        yield folder, journal
        for file in (*others(folder), folder / JOURNAL):  # from here on a kill means to begin again
            file.unlink()
        with atomic_folder(target) as fresh:
            os.rename(folder, fresh)
    except LostProcess:
        raise  # and what the others finished stays
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        journal.close()


def journal_of(folder: Path, rank: int) -> Path:
    """Return the journal of one of several processes that write into a folder."""
    return folder / (f"{JOURNAL}-{rank}" if rank else JOURNAL)


def others(folder: Path) -> list[Path]:
    """Return the journals of other processes than the first."""
    return sorted(folder.glob(f"{JOURNAL}-*"))


def finished_by(file: Path) -> dict[str, dict[str, Any]]:
    """Return what a process that has ended tells in its journal; one that was left alone ends soon."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            journal = Journal(file)
        except MergeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            journal.close()
            return journal.done


def _in_use(folder: Path) -> bool:
    """Return whether another process is merging into a folder."""
    try:
        Journal(folder / JOURNAL).close()
    except (MergeError, OSError):
        return True
    return False

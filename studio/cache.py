"""The user's cache: values by key that a later run may find, and may live without.

One SQLite file, and folders of larger things, in ``TRIPTYCH_CACHE``, else ``$XDG_CACHE_HOME/triptych``, else
``~/.cache/triptych``. A cache that cannot be opened, is damaged or busy costs time, never an answer. Those
files take at most ``TRIPTYCH_CACHE_GB`` (50), and never more than the disk can spare: what was used least
lately goes.
"""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from studio.errors import ConfigError

_AT_ONCE = 500
_TOO_LARGE = 1 << 30
#: Gigabytes that the files may take, if the environment says nothing else.
_GIGABYTES = 50.0
#: Seconds after its last use for which a file is safe: some run may be about to map it.
_IN_USE = 3600.0


class Kept:
    """Values by key in the cache; both directions fall silent when the cache does not work."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take the cache in ``folder``, or the user's."""
        self._file = (folder or cache_folder()) / "facts.sqlite"

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the values of those ``keys`` that are known."""
        found: dict[str, str] = {}
        with suppress(sqlite3.Error, OSError), closing(self._open()) as store:
            for at in range(0, len(keys), _AT_ONCE):
                some = keys[at : at + _AT_ONCE]
                marks = ",".join("?" * len(some))
                found |= dict(store.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some))
        return found

    def put(self, values: Mapping[str, str]) -> None:
        """Keep ``values``; a damaged cache is thrown away and begun anew by the next who asks."""
        if not values:
            return
        try:
            with closing(self._open()) as store, store:
                store.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", values.items())
        except sqlite3.OperationalError:
            pass  # busy, read-only or full: it is only a cache
        except (sqlite3.Error, OSError):
            with suppress(OSError):
                self._file.unlink()

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._file.is_file() and self._file.stat().st_size > _TOO_LARGE:
            self._file.unlink(missing_ok=True)
        store = sqlite3.connect(self._file, timeout=10)
        try:
            store.execute("PRAGMA synchronous = OFF")
            store.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        except sqlite3.Error:
            store.close()
            raise
        return store


def cache_folder() -> Path:
    """Return the folder of what may be thrown away at any time."""
    if own := os.environ.get("TRIPTYCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triptych"


def room(folder: Path) -> int:
    """Return how many bytes the files under ``folder`` may take: the limit, and most of what is free now.

    Raises:
        ConfigError: if TRIPTYCH_CACHE_GB is no number.
    """
    asked = os.environ.get("TRIPTYCH_CACHE_GB") or str(_GIGABYTES)
    try:
        limit = float(asked) * 1e9
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise ConfigError(f"TRIPTYCH_CACHE_GB must be a number of gigabytes from 0 on, not '{asked}'")
    folder.mkdir(parents=True, exist_ok=True)
    held = sum(size for _, size, _ in _files(folder))
    return int(min(limit, held + 0.8 * shutil.disk_usage(folder).free))


def evict(folder: Path, most: int) -> None:
    """Remove files under ``folder``, those used least lately first, until they take at most ``most`` bytes.

    Files used within the last hour stay. A file counts as used when it was last modified or touched; one that
    is removed while a process has it mapped stays readable to it.
    """
    files = sorted(_files(folder))
    held = sum(size for _, size, _ in files)
    for used, size, file in files:
        if held <= most or time.time() - used < _IN_USE:
            break
        with suppress(OSError):
            file.unlink()
        held -= size


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """Return time of last use, size and path of every file."""
    found = []
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file():
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, file))
    return found

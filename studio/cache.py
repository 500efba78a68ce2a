"""The user's cache: values by key that a later run may find, and may live without.

One SQLite file in ``TRIPTYCH_CACHE``, else ``$XDG_CACHE_HOME/triptych``, else ``~/.cache/triptych``. A cache
that cannot be opened, is damaged or busy costs time, never an answer.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

_AT_ONCE = 500
_TOO_LARGE = 1 << 30


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

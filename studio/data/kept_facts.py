"""What is known of files and rows from earlier runs, by content: a second check reads almost nothing.

Everything stands in one SQLite file in the user's cache folder (``TRIPTYCH_CACHE``, else
``$XDG_CACHE_HOME/triptych``, else ``~/.cache/triptych``). A file is hashed again only when its size, its
times or its inode changed. A cache that cannot be opened, is damaged or busy costs time, never an answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from studio import media, media_facts
from studio.files import sha256_file
from studio.log import Log
from studio.media_facts import Facts, absent, facts

Medium = tuple[Path, bool]
"""A file and whether it is used as a picture (True) or as a sound (False)."""

_AT_ONCE = 500
_TOO_LARGE = 1 << 30
_HERE = "\0"


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One medium: the SHA-256 of its bytes ("" where there are none), and its facts."""

    digest: str
    facts: Facts


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


def examine(wanted: Iterable[Medium], log: Log, kept: Kept | None = None) -> dict[Medium, Examined]:
    """Return what each medium is; those that are not known from earlier are decoded, in threads."""
    kept = kept or Kept()
    todo = list(dict.fromkeys(wanted))
    done: dict[Medium, Examined] = {}
    for medium in todo:
        fault = absent(*medium)
        if fault is not None:
            done[medium] = Examined(digest="", facts=fault)
    there = [medium for medium in todo if medium not in done]
    digests = content_hashes([path for path, _ in there], kept)
    names = {medium: f"facts:{_code()}:{medium[1]:d}:{digests.get(medium[0], '')}" for medium in there}
    known = {key: _facts(text) for key, text in kept.get(list(dict.fromkeys(names.values()))).items()}
    fresh = {key: medium for medium, key in names.items() if known.get(key) is None}
    if fresh:
        log.stage("checking media", len(fresh), "files")
        with ThreadPoolExecutor(workers()) as pool:
            for key, found in zip(fresh, pool.map(lambda one: facts(*one), fresh.values()), strict=True):
                known[key] = _moved(found, str(fresh[key][0]), _HERE)
                log.advance()
        kept.put({key: json.dumps(asdict(told)) for key in fresh if (told := known[key]) is not None})
    for medium, key in names.items():
        told = known[key]
        assert told is not None, key
        digest = digests.get(medium[0], "")
        done[medium] = Examined(digest=digest, facts=_moved(told, _HERE, str(medium[0])))
    return done


def content_hashes(paths: Sequence[Path], kept: Kept | None = None) -> dict[Path, str]:
    """Return the SHA-256 of each file that can be read; unchanged files are not read again."""
    kept = kept or Kept()
    stamps = {path: stamp for path in paths if (stamp := _stamp(path))}
    known = kept.get([f"file:{path}" for path in stamps])
    found, stale = {}, []
    for path, stamp in stamps.items():
        before, _, digest = known.get(f"file:{path}", "").rpartition(" ")
        if before == stamp:
            found[path] = digest
        else:
            stale.append(path)
    if stale:
        with ThreadPoolExecutor(workers()) as pool:
            fresh = {p: d for p, d in zip(stale, pool.map(_digest, stale), strict=True) if d}
        kept.put({f"file:{path}": f"{stamps[path]} {digest}" for path, digest in fresh.items()})
        found |= fresh
    return found


def workers() -> int:
    """Return how many threads decode: one a processor that this process may use, at most 8."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, count)


def _stamp(path: Path) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _facts(text: str) -> Facts | None:
    try:
        values = json.loads(text)
        return Facts(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, TypeError, KeyError):
        return None


def _moved(found: Facts, old: str, new: str) -> Facts:
    """Return facts whose sentence names another place: the same bytes may lie in several."""
    if not found.sentence:
        return found
    return Facts(**{**asdict(found), "sentence": found.sentence.replace(f"'{old}'", f"'{new}'")})


@cache
def _code() -> str:
    """Return a hash over the code and the decoders that tell facts."""
    digest = hashlib.sha256()
    for module in (media, media_facts):
        digest.update(Path(module.__file__ or "").read_bytes())
    digest.update(f"{version('pillow')} {version('soundfile')}".encode())
    return digest.hexdigest()[:16]

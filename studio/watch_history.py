"""The history of a watch: JSON lines that only grow, one watcher at a time, nothing lost by a kill.

    with History(Path("runs/history")) as history:
        history.add({"kind": "scores", "variant": "ties", "look": history.next_look, ...})

A line is on the disk before anything builds on it. A line that a kill cut short is passed over when reading.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from studio.errors import ConfigError

FILE, LOCK, LOOKS = "history.jsonl", "watch.lock", "looks"
GOOD = ("first", "steady", "better")
"""Verdicts after which a version is a good one."""
Entry = Mapping[str, Any]


class History:
    """An open history, which no other watcher can open at the same time; use it in a ``with`` block."""

    def __init__(self, folder: Path) -> None:
        """Open the history in a folder, which is made if it is not there.

        Raises:
            ConfigError: another watcher has it open.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / LOCK)
        self.entries: list[Entry] = read_entries(folder)

    @property
    def next_look(self) -> int:
        """The number of the next look; looks are counted from 1."""
        return max((int(entry.get("look", 0)) for entry in self.entries), default=0) + 1

    def look_folder(self, look: int) -> Path:
        """Return where the answers and scores of a look stand."""
        return self.folder / LOOKS / f"{look:05d}"

    def add(self, *entries: Mapping[str, Any]) -> None:
        """Keep entries with their time; they are on the disk when this returns."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        kept = [{"at": at, **entry} for entry in entries]
        lines = "".join(f"\n{json.dumps(entry, ensure_ascii=False)}" for entry in kept)
        with open(self.folder / FILE, "ab") as file:
            file.write(f"{lines}\n".encode())  # the first break ends a line that was cut short
            file.flush()
            os.fsync(file.fileno())
        self.entries += kept

    def close(self) -> None:
        """Let others watch."""
        self._lock.close()

    def __enter__(self) -> Self:
        """Return the open history."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the history."""
        self.close()


def read_entries(folder: Path) -> list[Entry]:
    """Return all whole entries of a history, oldest first; none if there is no file."""
    entries: list[Entry] = []
    with suppress(FileNotFoundError):
        for line in (folder / FILE).read_bytes().splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and "kind" in entry:
                    entries.append(entry)
    return entries


def scored(entries: list[Entry], variant: str) -> list[Entry]:
    """Return a variant's versions as they were scored, oldest first."""
    return [entry for entry in entries if entry["kind"] == "scores" and entry["variant"] == variant]


def good_ones(entries: list[Entry], variant: str) -> dict[str, Entry]:
    """Return the good versions that a new one is compared with: ``last good``, and ``first`` if it differs.

    ``first`` shows what the last good one cannot: many small losses. A version that was accepted by hand is
    both, and what came before counts no more.
    """
    found: dict[str, Entry] = {}
    last: Entry | None = None
    for entry in entries:
        if entry.get("variant") != variant:
            continue
        if entry["kind"] == "scores":
            last = entry
            if entry["verdict"] == "first":
                found = {"first": entry, "last good": entry}
            elif entry["verdict"] in GOOD:
                found["last good"] = entry
                found.setdefault("first", entry)
        elif entry["kind"] == "accepted" and last is not None:
            found = {"first": last, "last good": last}
    if found and found["first"] is found["last good"]:
        del found["first"]
    return found


def standing(entries: list[Entry]) -> dict[str, str]:
    """Return how each variant stands now: the verdict on its newest version, ``accepted`` or ``failed``."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry["kind"] == "scores":
            found[entry["variant"]] = str(entry["verdict"])
        elif entry["kind"] in ("accepted", "failed") and "variant" in entry:
            found[entry["variant"]] = str(entry["kind"])
    return found


def _locked(path: Path) -> IO[str]:
    """Return the open lock file, locked for as long as this process lives."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise ConfigError(
            f"{path.parent} is watched by {who} already; end that one, or give this one another --history"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def times(entries: list[Entry]) -> Iterator[tuple[float, Entry]]:
    """Yield the entries with their times in hours since the first one."""
    began: datetime | None = None
    for entry in entries:
        with suppress(KeyError, ValueError):
            at = datetime.fromisoformat(entry["at"])
            began = began or at
            yield (at - began).total_seconds() / 3600, entry

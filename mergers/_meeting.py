"""How the processes of a merge find each other and see whether the others live: by notes in a shared folder.

    host = Host(out, ranks)                      guest = Guest(out, ranks)
    host.call(folder, key, shares)               guest.wait()          # for the call
    host.look(log)                               guest.count()         # while both work
    host.wait(log)                               guest.done()
    host.close(report)                           guest.end()           # what the host came to

Every process has one note, which it replaces as a whole twice a second. Host and guests make up a word each
and repeat those of the others, so that nobody answers to the notes of an earlier merge that was killed. Files
need no ports, no names of machines and no launcher's help, and the folder is shared anyway: the result is
written there.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergers._ranks import Ranks
from studio.children import Children
from studio.errors import MergeError
from studio.log import Log

#: Seconds between two notes, and without a new one after which a process counts as dead. Shared folders may
#: show files as they were a minute ago.
BEAT, SILENT = 0.5, 180.0
#: Seconds between two looks at the others' notes, and those that guests have to read how it ended.
LOOK, LEAVE = 0.1, 10.0
SHARES = "shares.json"
#: What a live merge holds a lock on in each of its hidden folders; others are swept away by the next merge.
HELD = ".journal"


class LostProcess(MergeError):
    """A process of the merge is gone; what the others finished is kept, and the same merge goes on there."""


def meeting_folder(out: Path) -> Path:
    """Return where the notes of a merge into ``out`` lie."""
    target = Path(os.path.realpath(out))
    return target.with_name(f".{target.name}.merge-ranks")


class Notes:
    """The notes of all processes, and this one's own, which a thread keeps fresh."""

    def __init__(self, folder: Path, rank: int, **own: Any) -> None:
        """Write the first note."""
        self.folder, self.rank = folder, rank
        folder.mkdir(parents=True, exist_ok=True)
        self._own: dict[str, Any] = {"beat": 0, **own}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.tell()
        self._thread = threading.Thread(target=self._keep_fresh, name="notes", daemon=True)
        self._thread.start()

    def tell(self, **changes: Any) -> None:
        """Change this process's note."""
        with self._lock:
            self._own |= {**changes, "beat": self._own["beat"] + 1}
            fresh = self.folder / f".{self.rank}.{os.getpid()}"
            fresh.write_text(json.dumps(self._own), encoding="utf-8")
            os.replace(fresh, self._file(self.rank))

    def heard(self, rank: int) -> dict[str, Any]:
        """Return another process's note; nothing where there is none yet."""
        try:
            found = json.loads(self._file(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def stop(self) -> None:
        """Write no more notes of one's own accord."""
        self._stop.set()
        self._thread.join()

    def forget(self) -> None:
        """Take the own note away."""
        self.stop()
        self._file(self.rank).unlink(missing_ok=True)

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"

    def _keep_fresh(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self.tell()
            except OSError:
                return  # the folder is gone, and with it whoever could read


class Host:
    """The first process's view of the others."""

    def __init__(self, out: Path, ranks: Ranks, children: Children | None = None) -> None:
        """Open the meeting, for the processes that this one has started, or for those of a launcher."""
        self.ranks, self.out, self._children = ranks, out, children
        folder = meeting_folder(out)
        folder.mkdir(parents=True, exist_ok=True)
        self._held = (folder / HELD).open("a")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._held.close()
            raise MergeError(f"another process is merging into {out}") from None
        self._run = secrets.token_hex(8)
        self._notes = Notes(folder, 0, run=self._run, words={})
        self._seen: dict[int, tuple[object, float]] = {}
        self._counted, self._looked = 0, 0.0

    def call(self, folder: Path, key: str, shares: Sequence[Sequence[str]]) -> None:
        """Ask everybody to write their shares, tensors by name, into a folder whose files are laid out."""
        (self._notes.folder / SHARES).write_text(json.dumps(shares), encoding="utf-8")
        self._notes.tell(folder=str(folder.resolve()), key=key, words=self._words())

    def look(self, log: Log) -> bool:
        """Return whether all others are done; `MergeError` if one of them failed or is gone."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        others = range(1, self.ranks.world)
        gone = {rank: self._gone(rank) for rank in others}  # before the notes: the last one says why
        notes = {rank: self._notes.heard(rank) for rank in others}
        notes = {rank: note if note.get("run") == self._run else {} for rank, note in notes.items()}
        self._notes.tell(words=self._words())  # of who came after the call
        for rank, note in notes.items():
            self._check(rank, note, gone[rank], now)
        counted = sum(note.get("count", 0) for note in notes.values())
        if counted > self._counted:
            log.advance(counted - self._counted)
            self._counted = counted
        return all(note.get("state") == "done" for note in notes.values())

    def wait(self, log: Log) -> None:
        """Wait until all others are done; `MergeError` as `look` raises it."""
        while not self.look(log):
            time.sleep(LOOK / 2)

    def close(self, ending: dict[str, Any]) -> None:
        """Tell the others how it ended, and take the notes away."""
        self._notes.stop()
        self._notes.tell(words=self._words(), ending=ending)
        until = time.monotonic() + LEAVE
        while time.monotonic() < until and any(self._stays(rank) for rank in range(1, self.ranks.world)):
            time.sleep(LOOK / 2)
        shutil.rmtree(self._notes.folder, ignore_errors=True)
        self._held.close()

    def _stays(self, rank: int) -> bool:
        note = self._notes.heard(rank)
        return bool(note) and not self._gone(rank)

    def _gone(self, rank: int) -> str:
        """Return how a process ended that is known to have ended, or the empty string."""
        return self._children.gone(rank) if self._children is not None else ""

    def _words(self) -> dict[str, str]:
        notes = {rank: self._notes.heard(rank) for rank in range(1, self.ranks.world)}
        return {str(rank): note["word"] for rank, note in notes.items() if "word" in note}

    def _check(self, rank: int, note: dict[str, Any], gone: str, now: float) -> None:
        who = f"process {rank} of {self.ranks.world}"
        if note.get("state") == "failed":
            raise MergeError(str(note.get("why")))
        ended = note.get("why", "") if note.get("state") == "lost" else gone
        mark = (note.get("word"), note.get("beat"))
        if rank not in self._seen or self._seen[rank][0] != mark:
            self._seen[rank] = (mark, now)
        if not ended and now - self._seen[rank][1] > SILENT:
            ended = f"has not been heard of for {SILENT:.0f} seconds"
        if ended and note.get("state") != "done":
            raise LostProcess(
                f"{who} {ended}; nothing was written to {self.out}, and the same command goes on from what "
                "the others finished"
            )


class Guest:
    """Another process's view of the first."""

    def __init__(self, out: Path, ranks: Ranks) -> None:
        """Come to the meeting."""
        self.ranks, self._word = ranks, secrets.token_hex(8)
        self._notes = Notes(meeting_folder(out), ranks.rank, word=self._word, state="waiting", count=0)
        self._counted, self._looked, self._known = 0, 0.0, False
        self._seen: tuple[object, float] = (None, time.monotonic())

    def wait(self) -> tuple[Path, str, list[str]]:
        """Return the call: the folder, the merge's key, and the names of this process's tensors."""
        while "folder" not in (note := self._host()):
            time.sleep(LOOK / 2)
        names = json.loads((self._notes.folder / SHARES).read_text(encoding="utf-8"))[self.ranks.rank]
        self._notes.tell(state="working")
        return Path(note["folder"]), str(note["key"]), [str(name) for name in names]

    def count(self) -> None:
        """Count a finished tensor; `MergeError` if the first process is gone or gave up."""
        self._counted += 1
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            self._notes.tell(count=self._counted)
            self._host()

    def done(self) -> None:
        """Say that everything is written."""
        self._notes.tell(state="done", count=self._counted)

    def fail(self, state: str, why: str) -> None:
        """Say why nothing more comes: ``failed`` for a mistake in the input, ``lost`` for anything else."""
        self._notes.tell(state=state, why=why)

    def end(self) -> dict[str, Any]:
        """Return how the first process says that it ended."""
        while "ending" not in (note := self._host()):
            time.sleep(LOOK / 2)
        return dict(note["ending"])

    def stop(self) -> None:
        """Leave the note as it is."""
        self._notes.stop()

    def leave(self) -> None:
        """Take the note away, for which the first process waits once it has told how it ended."""
        self._notes.forget()

    def _host(self) -> dict[str, Any]:
        """Return the first process's note to this one; nothing as long as it does not know this one."""
        note, now = self._notes.heard(0), time.monotonic()
        if self._seen[0] != note.get("beat"):
            self._seen = (note.get("beat"), now)
        if now - self._seen[1] > SILENT:
            raise LostProcess(f"process 0 has not been heard of for {SILENT:.0f} seconds")
        if note.get("words", {}).get(str(self.ranks.rank)) != self._word:
            return {}
        if not self._known:
            self._known = True
            self._notes.tell(run=note["run"])
        if "error" in note.get("ending", {}):
            raise MergeError(str(note["ending"]["error"]))
        return note

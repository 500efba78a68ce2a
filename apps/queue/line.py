"""The line of jobs: adding, starting in turn, stopping, going on, removing; each under the folder's lock."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apps.queue import process
from apps.queue.jobs import (
    ALIVE,
    HELD,
    LOG,
    RESUMABLE,
    STAGE,
    Job,
    Standing,
    State,
    read_job,
    slug,
    why,
    write_job,
    write_state,
)
from studio.errors import ConfigError, TriptychError, UnknownName
from studio.files import atomic_write

LOCK, LIMIT, SETTINGS = ".lock", "limit.json", "settings.json"
#: A job whose process has not come to life after so many seconds has failed to.
UNBORN = 60.0


class Queue:
    """The jobs in a folder; any number of programs may have one open."""

    def __init__(self, folder: Path | str) -> None:
        """Open the queue; its folder is made when the first job is added."""
        self.folder = Path(os.path.abspath(folder))

    def jobs(self) -> list[Standing]:
        """Return all jobs in the order in which they were added, after a look at which still run."""
        if not self.folder.is_dir():
            return []
        with process.locked(self.folder / LOCK):
            return self._settled()

    def job(self, which: str) -> Standing:
        """Return one job, by its whole name or its number; `UnknownName` if there is none."""
        standings = self.jobs()
        for one in standings:
            if which == one.job.id or (which.isdecimal() and int(which) == number(one.job.id)):
                return one
        raise UnknownName("job", which, [one.job.id for one in standings])

    def add(
        self,
        *,
        title: str,
        words: Sequence[str],
        output: Path,
        settings: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Standing:
        """Put a job at the end: ``words`` follow `triptych run`. It starts with the next `go_on`.

        ``settings`` are kept in a file beside the job, which the words then end with.

        Raises:
            ConfigError: if a job that is not finished writes to the same ``output``.
        """
        output = Path(os.path.abspath(output))
        with process.locked(self.folder / LOCK):
            standings = self._settled()
            for one in standings:
                if one.job.output == str(output) and one.state.name != "finished":
                    raise ConfigError(
                        f"the job {one.job.id} writes to {output}, too ({one.told}); give another output, or "
                        "remove that job"
                    )
            at = 1 + max((number(one.job.id) for one in standings), default=0)
            name = f"{at:04d}-{slug(title)}"
            folder = self.folder / name
            if settings is not None:
                words = [*words, "--config", str(folder / SETTINGS)]
                atomic_write(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            job = Job(
                id=name,
                title=title,
                words=tuple(words),
                output=str(output),
                cwd=str(Path.cwd()),
                made=datetime.now(UTC).isoformat(timespec="seconds"),
                about=dict(about or {}),
            )
            now = time.time()
            write_state(folder, State(queued=now, since=now))
            write_job(folder, job)  # last: without it, a folder is no job
            found = read_job(folder)
        assert found is not None
        return found

    def go_on(self) -> list[Standing]:
        """Settle the jobs whose process has ended, and start those whose turn it is; return all jobs."""
        if not self.folder.is_dir():
            return []
        with process.locked(self.folder / LOCK):
            standings = self._settled()
            free = self.limit - sum(one.state.name in ALIVE for one in standings)
            waiting = [one for one in standings if one.state.name == "waiting"]
            waiting.sort(key=lambda one: (one.state.queued, one.job.id))
            for one in waiting[: max(free, 0)]:
                self._start(one)
            return self._all() if waiting[: max(free, 0)] else standings

    def stop(self, which: str, *, now: bool = False) -> Standing:
        """Ask a running job to save its state and end, or take a waiting one out of the line.

        Asked a second time, it ends after what it is at; with ``now`` it is killed, and goes on later from
        the last state that it saved.

        Raises:
            ConfigError: if there is nothing to stop.
        """
        one = self.job(which)
        with process.locked(self.folder / LOCK):
            one = self._fresh(one)
            if one.state.name == "waiting":
                return self._put(one, name="stopped")
            if one.state.name not in ALIVE:
                raise ConfigError(f"the job {one.job.id} does not run: {one.told}")
            if one.state.host != process.host():
                raise ConfigError(f"the job {one.job.id} runs on {one.state.host}; stop it there")
            one = self._put(one, name="stopping")
            if process.alive(one.state.pid, one.state.born):
                with suppress(ProcessLookupError):
                    os.kill(one.state.pid, signal.SIGKILL if now else signal.SIGTERM)
            return one

    def resume(self, which: str) -> Standing:
        """Let a job that was stopped, interrupted or failed wait for another turn; it goes on where it was.

        Raises:
            ConfigError: if it runs, waits or is finished.
        """
        one = self.job(which)
        with process.locked(self.folder / LOCK):
            one = self._fresh(one)
            if one.state.name not in RESUMABLE:
                raise ConfigError(f"the job {one.job.id} cannot go on: {one.told}")
            (one.folder / STAGE).unlink(missing_ok=True)
            return self._put(one, name="waiting", queued=time.time(), reason="")

    def remove(self, which: str) -> Standing:
        """Take a job that does not run off the list; what it has written to its output stays.

        Raises:
            ConfigError: if it runs.
        """
        one = self.job(which)
        with process.locked(self.folder / LOCK):
            one = self._fresh(one)
            if one.state.name in ALIVE:
                raise ConfigError(f"the job {one.job.id} is {one.told}; stop it first")
            gone = self.folder / f".{one.job.id}.{secrets.token_hex(4)}"
            os.rename(one.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
            return one

    @property
    def limit(self) -> int:
        """How many jobs may run at once."""
        try:
            return int(json.loads((self.folder / LIMIT).read_text(encoding="utf-8"))["at_once"])
        except FileNotFoundError:
            return 1
        except (OSError, ValueError, KeyError, TypeError):
            raise TriptychError(
                f"{self.folder / LIMIT} does not say how many jobs run at once; remove it"
            ) from None

    def set_limit(self, at_once: int) -> None:
        """Let so many jobs run at once; 0 starts none, and leaves those that run alone."""
        if at_once < 0:
            raise ConfigError(f"at least 0 jobs can run at once, not {at_once}")
        with process.locked(self.folder / LOCK):
            atomic_write(self.folder / LIMIT, json.dumps({"at_once": at_once}) + "\n")

    def _all(self) -> list[Standing]:
        folders = sorted(path for path in self.folder.iterdir() if path.name[:1] != "." and path.is_dir())
        found = [read_job(folder) for folder in folders]
        return sorted((one for one in found if one), key=lambda one: number(one.job.id))

    def _settled(self) -> list[Standing]:
        return [self._settle(one) if one.state.name in ALIVE else one for one in self._all()]

    def _settle(self, one: Standing) -> Standing:
        """Return a job that was said to run as it is: its process may be gone without a word."""
        state = one.state
        if state.host != process.host():
            with process.locked(one.folder / HELD, wait=False) as free:
                if not free:
                    return one
        elif process.alive(state.pid, state.born):
            return one
        elif not state.born and time.time() - state.since < UNBORN:
            return one  # started this moment
        if state.name == "stopping":
            return self._put(one, name="stopped")
        return self._put(
            one, name="interrupted", reason=f"Its process is gone. It said last: {why(one.folder)}"
        )

    def _start(self, one: Standing) -> None:
        try:
            pid = process.start(
                "apps.queue.child", str(one.folder), cwd=one.job.cwd, log=one.folder / LOG,
                environment={"TRIPTYCH_STAGE": str(one.folder / STAGE)},
            )  # fmt: skip
        except OSError as error:
            self._put(one, name="failed", reason=f"it could not be started: {error.strerror or error}")
            return
        self._put(one, name="running", pid=pid, born=process.birth(pid), host=process.host(), reason="")

    def _fresh(self, one: Standing) -> Standing:
        found = read_job(one.folder)
        if found is None:
            raise TriptychError(f"the job {one.job.id} is gone")
        return found

    def _put(self, one: Standing, **changes: Any) -> Standing:
        state = dataclasses.replace(one.state, since=time.time(), **changes)
        write_state(one.folder, state)
        return dataclasses.replace(one, state=state)


def number(job: str) -> int:
    """Return the number that a job's name begins with."""
    digits = job.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0

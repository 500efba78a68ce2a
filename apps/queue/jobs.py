"""What the queue keeps of a job on disk: what it is, where it stands, how far its stage is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import CheckpointError
from studio.files import atomic_write

JOB, STATE, STAGE, LOG, HELD = "job.json", "state.json", "stage.json", "log.txt", "held"
#: What a job may be, in plain words.
STATES = {
    "waiting": "waits for its turn",
    "running": "running",
    "stopping": "stopping; it saves its state first",
    "stopped": "stopped, can go on",
    "interrupted": "interrupted, can go on",
    "failed": "failed",
    "finished": "finished",
}
ALIVE, RESUMABLE = ("running", "stopping"), ("stopped", "interrupted", "failed")
_TAIL = 64 << 10
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for: a recipe with its settings, to be run in ``cwd`` and written to ``output``.

    ``about`` is for whoever shows the job: the name of the expert, the preset, who asked for it.
    """

    id: str
    title: str
    words: tuple[str, ...]
    output: str
    cwd: str
    made: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a job stands: ``name`` is one of `STATES`, since ``since`` (seconds of the epoch).

    ``queued`` orders those that wait; ``pid``, ``born`` and ``host`` name its process, or its last one;
    ``reason`` is why it failed, in one sentence.
    """

    name: str = "waiting"
    queued: float = 0.0
    since: float = 0.0
    pid: int = 0
    born: str = ""
    host: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How far a job is: ``done`` of ``total`` units of its stage; times are seconds of the epoch."""

    name: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    began: float = 0.0
    told: float = 0.0

    @property
    def left(self) -> float | None:
        """The seconds that the stage will still take, or None while nobody can tell."""
        if not self.done or self.total <= self.done:
            return None
        return (self.told - self.began) / self.done * (self.total - self.done)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A job, its folder, and where it stands."""

    job: Job
    folder: Path
    state: State

    @property
    def told(self) -> str:
        """Where it stands, in plain words."""
        return STATES[self.state.name]

    def stage(self) -> Stage:
        """Return how far it is."""
        return _read(self.folder / STAGE, Stage) or Stage()

    def log(self, lines: int = 20) -> list[str]:
        """Return the last lines that it wrote."""
        return tail(self.folder / LOG, lines)


def read_job(folder: Path) -> Standing | None:
    """Return the job in a folder, or None where there is none (any more).

    Raises:
        CheckpointError: if its files are of something else.
    """
    job = _read(folder / JOB, Job)
    if job is None:
        return None
    return Standing(job=job, folder=folder, state=_read(folder / STATE, State) or State())


def write_job(folder: Path, job: Job) -> None:
    """Write what is asked for, once."""
    atomic_write(folder / JOB, json.dumps(dataclasses.asdict(job), indent=2, ensure_ascii=False) + "\n")


def write_state(folder: Path, state: State) -> None:
    """Write where a job stands."""
    atomic_write(folder / STATE, json.dumps(dataclasses.asdict(state), indent=2, ensure_ascii=False) + "\n")


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file; none if there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def why(folder: Path) -> str:
    """Return the reason that a job gave before it ended: its own sentence, or its last line."""
    said = [line for line in tail(folder / LOG, 40) if line.strip()]
    own = [at for at, line in enumerate(said) if line.startswith("triptych: ")]
    if own:
        return "\n".join(said[own[-1] :])[:2000].removeprefix("triptych: ")
    return said[-1].strip()[:500] if said else "it ended without a word"


def slug(text: str) -> str:
    """Return a text as a folder's name: letters, digits and dashes, at most 40; "job" if nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "job"


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and "words" in found:
            found["words"] = tuple(found["words"])
        return kind(**found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        raise CheckpointError(
            f"{path} does not describe a job; it is damaged or of another program"
        ) from None

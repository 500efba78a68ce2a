"""Saving a mix: its merge file, or what the merge makes, in the folder of the runs, whole or not at all."""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergers import MergeSpec, merge
from studio.errors import DataError, TriptychError
from studio.files import atomic_write
from studio.store import VERDICTS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_RESERVED = {*VERDICTS, "merges", "con", "prn", "aux", "nul"}
_HEAD = (
    "# Made on the Mix page of `triptych app`; `triptych merge THIS-FILE -o FOLDER` makes the same model.\n"
)


def checked(name: Any) -> str:
    """Return a name that may become a file's or a folder's, as if it were forged until it is looked at.

    Raises:
        DataError: in one sentence, what is allowed.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not _NAME.fullmatch(text) or ".." in text or text.endswith(".") or text.lower() in _RESERVED:
        raise DataError(
            "A name begins with a letter or digit and has at most 60 letters, digits and any of . - and _."
        )
    return text


def as_yaml(spec: MergeSpec) -> str:
    """Return the merge file of a mix."""
    return spec.to_yaml(_HEAD)


def save_file(spec: MergeSpec, runs: Path, name: str) -> Path:
    """Write a merge file below the runs' folder and return it; one that says the same may be there.

    Raises:
        DataError: a file of that name says something else.
    """
    target, text = runs / "merges" / f"{name}.yaml", as_yaml(spec)
    if target.exists():
        if target.read_text(encoding="utf-8") != text:
            raise DataError(f"There is another merge file named '{name}'; choose another name.")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, text.encode())
    return target


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a merge is: ``state`` is "waiting", "running", "done" or "failed"; ``told`` a sentence."""

    name: str
    state: str = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    told: str = ""


class Saving:
    """One merge into the runs' folder on a thread of its own; it goes on when nobody watches.

    ``turn`` lets one merge after the other work; ``then`` is told the finished folder.
    """

    def __init__(self, spec: MergeSpec, folder: Path, turn: threading.Lock, then: Any) -> None:
        """Prepare; nothing is written before `start`."""
        self.progress = Progress(name=folder.name)
        self._spec, self._folder, self._turn, self._then = spec, folder, turn, then
        self._news = threading.Condition()

    def start(self) -> Saving:
        """Begin in the background."""
        threading.Thread(target=self._run, name="mix", daemon=True).start()
        return self

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.progress.state in ("done", "failed")

    def watch(self, every: float = 0.2) -> Iterator[Progress]:
        """Yield how far it is, until it is over."""
        while True:
            shown = self.progress
            yield shown
            if shown.state in ("done", "failed"):
                return
            with self._news:
                self._news.wait_for(lambda shown=shown: self.progress is not shown, timeout=5)  # type: ignore[misc]
                self._news.wait(0 if self.over else every)

    def _run(self) -> None:
        try:
            with self._turn:
                self._show(state="running")
                merge(self._spec, self._folder, self)
                self._show(stage="joining", done=0, total=0)
                self._then(self._folder)
        except TriptychError as error:
            self._show(state="failed", told=str(error).replace(str(self._folder), "the folder"))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            told = "The merge failed in an unexpected way; the server's log has the details."
            self._show(state="failed", told=told)
        else:
            self._show(state="done")

    def _show(self, **changes: Any) -> None:
        with self._news:
            self.progress = replace(self.progress, **changes)
            self._news.notify_all()

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Note a stage of the merge (`studio.log.Log`)."""
        self._show(stage=f"{name}, {total} {unit}", done=0, total=total)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Note how far it is."""
        self._show(done=self.progress.done + n)

    def say(self, message: str) -> None:
        """Leave lines for a terminal unsaid."""

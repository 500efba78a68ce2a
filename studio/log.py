"""What a run tells its user while it works: the stage, the step, the rate and the time left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID


class Log(Protocol):
    """Where recipes, merges and evaluations report; a recipe never prints."""

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Begin a stage of ``total`` units; the one before it ends."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Report ``n`` more units done, with figures (a loss, say) worth showing."""

    def say(self, message: str) -> None:
        """Print one line that stays."""


class QuietLog:
    """Says nothing: for tests and for callers that show progress themselves."""

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Ignore the stage."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Ignore the progress."""

    def say(self, message: str) -> None:
        """Ignore the message."""


class PlainLog:
    """Lines of text for files and pipes: at most one every ``every`` seconds, and one per stage end."""

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        """Write to ``stream``, standard error by default."""
        self._stream = stream or sys.stderr
        self._every = every
        self._name, self._total, self._unit, self._done = "", 0, "", 0
        self._began = self._told = time.monotonic()

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Begin a stage and print its name."""
        self._name, self._total, self._unit, self._done = name, total, unit, 0
        self._began = self._told = time.monotonic()
        self.say(f"{name}: {total} {unit}")

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count, and print a line when enough time has passed or the stage is complete."""
        self._done += n
        now = time.monotonic()
        if now - self._told < self._every and self._done < self._total:
            return
        self._told = now
        rate = self._done / max(now - self._began, 1e-9)
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        extra = "".join(f"  {key} {value:.4g}" for key, value in figures.items())
        self.say(
            f"  {self._name}  {self._done}/{self._total} {self._unit}  {rate:.1f} {self._unit}/s"
            f"  {left:.0f} s left{extra}"
        )

    def say(self, message: str) -> None:
        """Print one line."""
        print(message, file=self._stream, flush=True)


class RichLog:
    """A live progress line in a terminal, by rich."""

    def __init__(self) -> None:
        """Prepare the display; nothing is shown before the first stage."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._began = 0.0

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Begin a stage on a line of its own; the line of the one before it stays."""
        self._progress.start()
        self._began = time.monotonic()
        self._task = self._progress.add_task(name, total=total, unit=unit, rate="", figures="")

    def advance(self, n: int = 1, **figures: float) -> None:
        """Move the bar and show the rate and the figures."""
        if self._task is None:
            return
        done = self._progress.tasks[-1].completed + n
        rate = done / max(time.monotonic() - self._began, 1e-9)
        unit = self._progress.tasks[-1].fields["unit"]
        text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        fields: dict[str, Any] = {"figures": text} if text else {}
        self._progress.update(self._task, advance=n, rate=f"{rate:.1f} {unit}/s", **fields)
        if done >= (self._progress.tasks[-1].total or 0):
            self._progress.stop()

    def say(self, message: str) -> None:
        """Print one line above the bar."""
        self._progress.console.print(message, highlight=False, markup=False)


def best_log() -> Log:
    """Return the live display in a terminal, plain lines elsewhere; TRIPTYCH_STAGE names a file for it."""
    shown: Log = RichLog() if sys.stderr.isatty() else PlainLog()
    file = os.environ.get("TRIPTYCH_STAGE")
    if not file:
        return shown
    from studio.stage_file import StageLog

    return StageLog(Path(file), shown)

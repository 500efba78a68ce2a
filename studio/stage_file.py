"""How far a run is, in a file: for whoever shows it from another process."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from studio.log import Log


class StageLog:
    """Tells another log, and keeps the stage and what is done of it in a file, once a second at most.

    The file holds ``name``, ``done``, ``total``, ``unit``, and when the stage ``began`` and was ``told``, in
    seconds of the epoch. A disk that is full does not end the run.
    """

    def __init__(self, file: Path, inner: Log, every: float = 1.0) -> None:
        """Write to ``file`` besides telling ``inner``."""
        self._file, self._inner, self._every = file, inner, every
        self._name, self._done, self._total, self._unit = "", 0, 0, ""
        self._began = self._told = 0.0

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Begin a stage."""
        self._inner.stage(name, total, unit)
        self._name, self._done, self._total, self._unit = name, 0, total, unit
        self._began = time.time()
        self._write()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count."""
        self._inner.advance(n, **figures)
        self._done += n
        if time.time() - self._told >= self._every or self._done >= self._total:
            self._write()

    def say(self, message: str) -> None:
        """Pass a message on."""
        self._inner.say(message)

    def _write(self) -> None:
        self._told = time.time()
        told = {
            "name": self._name, "done": self._done, "total": self._total, "unit": self._unit,
            "began": self._began, "told": self._told,
        }  # fmt: skip
        part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with suppress(OSError):
            part.write_text(json.dumps(told), encoding="utf-8")
            os.replace(part, self._file)

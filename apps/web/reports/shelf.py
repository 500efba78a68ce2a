"""The evaluation folders below the runs' folder, and the reports on them, made once for each state."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from apps.lineage import origins
from apps.web.desk import Desk
from studio.errors import DataError
from studio.eval_report.assemble import Report, assemble
from studio.eval_report.evaluation import FILE, GROUPS, ROBUSTNESS, SAMPLES, read_evaluation
from studio.files import stamp

#: So deep below the runs' folder evaluations are looked for, so many are offered, so many reports are kept.
DEPTH, MOST, _KEPT = 5, 200, 4
#: Folders of the app itself, in which people's uploads and jobs lie.
_OWN = ("data", "queue")


class Shelf:
    """The evaluations that may be looked at, by their names below the runs' folder."""

    def __init__(self, desk: Desk) -> None:
        """Read nothing yet."""
        self._runs = desk.runs
        self._engine: Any = desk.engine
        self._known: dict[tuple[str, ...], Report] = {}
        self._guard = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of the evaluations, the newest first."""
        root = self._runs.resolve()
        found: list[tuple[float, str]] = []
        for place, folders, files in os.walk(root):
            depth = len(Path(place).relative_to(root).parts)
            hidden = [name for name in folders if name.startswith(".") or (not depth and name in _OWN)]
            folders[:] = [] if depth >= DEPTH else sorted(set(folders) - set(hidden))
            if FILE in files and SAMPLES in files and self._inside(Path(place)):
                found.append((os.stat(Path(place) / FILE).st_mtime, Path(place).relative_to(root).as_posix()))
        return [name for _, name in sorted(found, reverse=True)[:MOST]]

    def report(self, name: Any) -> Report:
        """Return the report on an evaluation; `DataError` if there is none of this name, or it is damaged."""
        if not isinstance(name, str) or name not in self.names():
            raise DataError("There is no such evaluation any more; load the page again.")
        folder = self._runs.resolve() / name
        state = (name, *(stamp(folder / file) for file in (FILE, SAMPLES, GROUPS, ROBUSTNESS)))
        with self._guard:
            if state not in self._known:
                while len(self._known) >= _KEPT:
                    self._known.pop(next(iter(self._known)))
                evaluation = read_evaluation(folder)
                self._known[state] = assemble(evaluation, origins=origins(evaluation, allowed=self._open))
            return self._known[state]

    def _inside(self, folder: Path) -> bool:
        """Return whether all files of an evaluation lie below the runs' folder, where links lead too."""
        root = self._runs.resolve()
        files = (FILE, SAMPLES, GROUPS, ROBUSTNESS)
        return all((folder / file).resolve().is_relative_to(root) for file in files)

    def _open(self, folder: Path) -> bool:
        """Return whether a folder of weights may be looked into: one of the runs', or one that is served."""
        served = {Path(each).resolve() for each in getattr(self._engine, "folders", {}).values() if each}
        return folder.resolve().is_relative_to(self._runs.resolve()) or folder.resolve() in served

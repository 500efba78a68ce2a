"""Taking a data set in for the page: in a thread of its own, one at a time, telling how far it is."""

from __future__ import annotations

import html
import queue
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.panels import problem_html
from apps.web.training.report import report_html
from apps.web.training.trainings import Trainings
from apps.web.visitors import Visitor
from studio.data.intake import Taken, take_in
from studio.errors import DataError, TriptychError

Work = Callable[[Path, "Told"], tuple[str, Path]]
"""Given an empty folder and a log, returns the set's name and where it lies."""
_EVERY = 0.4


class Told:
    """A log that keeps the last thing it was told, as a sentence of the page."""

    def __init__(self) -> None:
        """Begin."""
        self.told = "Looking at what was sent"
        self._name, self._done, self._total, self._unit = "", 0, 0, ""

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Begin a stage."""
        self._name, self._done, self._total, self._unit = name.capitalize(), 0, total, unit
        self.told = f"{self._name}: {total:,} {unit}"

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count."""
        self._done += n
        self.told = f"{self._name}: {self._done:,} of {self._total:,} {self._unit}"

    def say(self, message: str) -> None:
        """Keep a message."""
        self.told = message.capitalize()


def take(trainings: Trainings, who: Visitor, work: Work) -> Iterator[tuple[Any, ...]]:
    """Take in what ``work`` finds; yield updates of the report, the set, the name, the known sets.

    The set's name becomes what stands in the name's empty field, which the visitor may be filling just now.
    """
    log, over = Told(), queue.SimpleQueue[Any]()

    def run() -> None:
        with trainings.reading:
            try:
                over.put(_taken(trainings, work, log))
            except (TriptychError, OSError) as error:
                over.put(plain(error))
            except Exception:
                traceback.print_exc(file=sys.stderr)
                over.put("Something went wrong here; the app's log says what.")

    threading.Thread(target=run, name="taking in", daemon=True).start()
    shown, found = "", None
    while found is None:
        try:
            found = over.get(timeout=_EVERY)
        except queue.Empty:
            if log.told != shown:
                shown = log.told
                yield f'<p class="tp-told">{html.escape(shown)}</p>', None, gr.skip(), gr.skip()
    if isinstance(found, str):
        yield problem_html(found), None, gr.skip(), None
        return
    title, taken = found
    known = trainings.known_to(who)
    yield (
        report_html(title, taken),
        taken,
        gr.update(placeholder=title),
        gr.update(choices=list(known), value=None),
    )


def _taken(trainings: Trainings, work: Work, log: Told) -> tuple[str, Taken]:
    trainings.inbox.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=trainings.inbox))
    place = folder
    try:
        title, place = work(folder, log)
        out = trainings.free_folder(title)
        taken = take_in(place, out, trainings.gauge(), log)
        return out.name, taken
    except TriptychError as error:
        told = str(error)
        for one in (place, folder):
            told = told.replace(f"{one}/", "").replace(f"'{one}'", "the set").replace(str(one), "the set")
        raise DataError(told) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain(error: Exception) -> str:
    """Return an error as a sentence for the page."""
    told = f"Cannot write: {error.strerror}" if isinstance(error, OSError) else str(error)
    told = told[:1].upper() + told[1:]
    return told if told.endswith((".", "!", "?")) else f"{told}."

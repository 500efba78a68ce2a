"""The trainings of an app: who may train, what is started, how finished experts join the others."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apps.queue import Queue, Standing
from apps.queue.jobs import slug
from apps.web.desk import Desk
from apps.web.training.presets import PRESETS, settings_of
from apps.web.visitors import Visitor
from studio import families
from studio.assets import assets_root, shipped
from studio.data.intake import Taken
from studio.errors import DataError, TriptychError, unknown
from studio.families._gauge import Gauge
from studio.store import VERDICTS

EVERY = 2.0
"""Seconds between looks at the queue."""
LONGEST = 40
"""Characters of an expert's name."""
_STALE = 86400.0
"""Seconds after which what was left half taken in is removed."""


def least_role() -> str:
    """Return the least role that may train: engineer, or expert if ``TRIPTYCH_EXPERTS_TRAIN=1`` says so."""
    return "expert" if os.environ.get("TRIPTYCH_EXPERTS_TRAIN", "") in ("1", "true", "yes") else "engineer"


class Trainings:
    """The queue below a desk's folder of runs; it goes on for as long as the desk is there."""

    def __init__(self, desk: Desk) -> None:
        """Open the queue, and look after it from now on."""
        self.desk = desk
        runs = Path(os.path.abspath(desk.runs))
        self.runs, self.queue = runs, Queue(runs / "queue")
        self.sets, self.inbox = runs / "data", runs / "data" / ".inbox"
        self.reading = threading.Lock()
        self.apart: dict[str, str] = {}
        self._gauge: Gauge | None = None
        self._joined: set[str] = set()
        _sweep(self.sets)
        threading.Thread(target=_look_after, args=(weakref.ref(self),), name="queue", daemon=True).start()

    @property
    def base(self) -> Path:
        """The base that experts are trained on: the one that all variants share.

        Raises:
            TriptychError: if the engine has none.
        """
        base = getattr(self.desk.engine, "base", None)
        if base is None:
            raise TriptychError("This app's variants share no base, so nothing can be trained here.")
        return Path(base)

    def gauge(self) -> Gauge:
        """Return what measures rows for the base."""
        if self._gauge is None:
            self._gauge = families.gauge(self.base)
        return self._gauge

    def seen_by(self, who: Visitor, jobs: list[Standing] | None = None) -> list[Standing]:
        """Return the trainings that a visitor may see, newest first: of an expert the own ones alone."""
        jobs = self.queue.jobs() if jobs is None else jobs
        own = [one for one in jobs if one.job.about.get("by") == who.name]
        return (jobs if who.may("engineer") else own)[::-1]

    def of(self, who: Visitor, job: Any) -> Standing:
        """Return one training that a visitor may see; `DataError` if there is none of that name."""
        for one in self.seen_by(who):
            if one.job.id == job:
                return one
        raise DataError("That training is not on the list any more.")

    def start(
        self, who: Visitor, title: Any, preset: Any, taken: Taken | None, changes: Mapping[str, Any]
    ) -> Standing:
        """Queue the training of a new expert, who without a name has the set's; start it if it is its turn.

        Raises:
            DataError: there is no data set, or the name or the preset will not do.
            TriptychError: as of `triptych run`, for settings that are out of range.
        """
        if taken is None or not (taken.folder / "train.jsonl").is_file():
            raise DataError("Choose a data set first.")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise DataError(f"{unknown('way to train', str(preset), PRESETS)}.")
        title, name = self._name(title if isinstance(title, str) and title.strip() else taken.folder.name)
        output = self.runs / name
        settings = settings_of(preset, taken, self.base, self._model(), output, changes)
        _check(settings)
        about = {
            "expert": name,
            "preset": preset,
            "by": who.name,
            "base": str(self.base.resolve()),
            "rows": taken.learned,
        }
        job = self.queue.add(title=title, words=["sft"], output=output, settings=settings, about=about)
        self.queue.go_on()
        return job

    def join(self, jobs: list[Standing]) -> None:
        """Let finished experts answer beside the other variants."""
        add = getattr(self.desk.engine, "add", None)
        for one in jobs:
            name = one.job.about.get("expert")
            if one.state.name != "finished" or not name or add is None or one.job.id in self._joined:
                continue
            self._joined.add(one.job.id)
            if name in self.desk.engine.names:
                continue
            try:
                output = Path(one.job.output)
                add(name, output / "adapter" if (output / "adapter").is_dir() else output / "model")
            except TriptychError as error:
                self.apart[one.job.id] = str(error)

    def forget(self, job: str) -> None:
        """Look again at a training that goes on: what it makes has not joined yet."""
        self._joined.discard(job)
        self.apart.pop(job, None)

    def free_folder(self, name: str) -> Path:
        """Return a place for a new data set of that name."""
        wanted = self.sets / slug(name)
        number, found = 1, wanted
        while found.exists():
            number += 1
            found = wanted.with_name(f"{wanted.name}-{number}")
        return found

    def known_to(self, who: Visitor) -> dict[str, Path]:
        """Return the sets that are here already: taken in, in a data folder, shipped; experts see none."""
        if not who.may("engineer"):
            return {}
        folders = [self.sets]
        if os.environ.get("TRIPTYCH_DATA"):
            folders.append(Path(os.environ["TRIPTYCH_DATA"]))
        found: dict[str, Path] = {}
        for folder in folders:
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            for entry in entries:
                if not entry.name.startswith(".") and not entry.is_symlink():
                    found.setdefault(entry.name, entry)
        for name in shipped("data"):
            found.setdefault(name, assets_root() / "data" / name)
        return found

    def _name(self, title: str) -> tuple[str, str]:
        """Return an expert's name as it is shown, and as its folder and variant are called."""
        title = " ".join(title.split())
        if not title or len(title) > LONGEST or not title.isprintable():
            raise DataError(f"Give the expert a name of 1 to {LONGEST} characters.")
        if not any(character.isascii() and character.isalnum() for character in title):
            raise DataError("The name needs a letter from a to z or a digit.")
        name = slug(title)
        taken = [str(one).casefold() for one in self.desk.engine.names]
        if name in (*taken, *VERDICTS, "queue", "data") or (self.runs / name).exists():
            raise DataError(f"There is something called '{name}' already; choose another name.")
        return title, name

    def _model(self) -> str:
        """Return how a run names the base: as it ships, or by its folder."""
        base = self.base.resolve()
        for name in shipped("models"):
            if (assets_root() / "models" / name).resolve() == base:
                return name
        return str(base)


def _check(settings: Mapping[str, Any]) -> None:
    """Raise what `triptych run sft` would say about the settings before it begins."""
    from recipes import sft
    from studio import config

    sft.check(config.from_dict(sft.Config, settings))


def _sweep(sets: Path) -> None:
    """Remove what an app that was killed while it took a set in has left more than a day ago."""
    for left in (*sets.glob(".taking-in-*"), *sets.glob(".inbox/*")):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left)


def _look_after(trainings: weakref.ref[Trainings]) -> None:
    """Keep the queue going until nobody holds it any more."""
    told = ""
    pause = threading.Event()
    while (found := trainings()) is not None:
        try:
            found.join(found.queue.go_on())
            told = ""
        except Exception as error:  # a full disk, a damaged file: told once, and tried again
            if str(error) != told and isinstance(error, TriptychError | OSError):
                print(f"queue: {error}", file=sys.stderr)
            elif str(error) != told:
                traceback.print_exception(error, file=sys.stderr)
            told = str(error)
        del found
        pause.wait(EVERY)

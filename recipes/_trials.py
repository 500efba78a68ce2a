"""One trial of a sweep: a run with settings of its own, here or in another process, that may be cut short."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import optuna

from studio import plugins
from studio.config import from_dict
from studio.errors import DivergedError, TriptychError
from studio.log import Log, QuietLog

State = Literal["complete", "pruned", "failed", "wrong"]
#: Characters of a folder's name that may stand for settings.
LONGEST = 80


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a trial is to do: ``settings`` of ``recipe``, with ``title`` to name it."""

    recipe: str
    settings: Mapping[str, Any]
    title: str
    metric: str | None
    prune: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial: complete, pruned, failed (its loss diverged), or wrong (a mistake: no sweep)."""

    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0


class TrialLog:
    """Shows a trial's training and nothing else of it, and ends it when its evaluations promise little."""

    def __init__(self, log: Log, job: Job, trial: optuna.Trial) -> None:
        """Report to ``log``."""
        self._log, self._job, self._trial = log, job, trial
        self._shown = False

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Pass the training on under the trial's name."""
        self._shown = name == "training" and total > 0
        if self._shown:
            self._log.stage(self._job.title, total, unit)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Pass progress on, and judge the trial by an evaluation."""
        if self._shown:
            self._log.advance(n, **figures)
        metric = self._job.metric or "eval_loss"
        if not self._job.prune or metric not in figures or "step" not in figures:
            return
        # A trial that goes on after a kill may do an evaluation once more.
        step = int(figures["step"])
        if step not in self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values:
            self._trial.report(figures[metric], step)
        if self._trial.should_prune():
            raise optuna.TrialPruned

    def say(self, message: str) -> None:
        """Say nothing: the sweep reports for all trials."""


def try_out(job: Job, trial: optuna.Trial, log: Log) -> Outcome:
    """Run a trial and return what came of it. A run that was killed goes on where it was."""
    began = time.monotonic()
    recipe = plugins.load("recipes", job.recipe)
    try:
        done = recipe.run(from_dict(recipe.Config, job.settings), TrialLog(log, job, trial))
        found: tuple[State, Mapping[str, float], str] = ("complete", done.metrics, "")
    except optuna.TrialPruned:
        found = ("pruned", {}, "")
    except DivergedError as error:
        found = ("failed", {}, str(error))
    except TriptychError as error:
        found = ("wrong", {}, str(error))
    state, metrics, why = found
    return Outcome(state=state, metrics=dict(metrics), why=why, seconds=time.monotonic() - began)


def try_apart(job: Job, storage: str, study: str, trial: int) -> Outcome:
    """Run a trial in this process, whose study another process leads."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = optuna.load_study(study_name=study, storage=storage, pruner=pruner())
    return try_out(job, optuna.Trial(known, trial), QuietLog())


def end_with(leader: int) -> None:
    """End this process when the one that leads the sweep is gone, however it went."""

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def pruner() -> optuna.pruners.BasePruner:
    """Return what cuts trials short: those that are worse than half of the trials were at the same step."""
    return optuna.pruners.MedianPruner(n_startup_trials=3)


def folder_name(chosen: Mapping[str, Any]) -> str:
    """Return a folder's name that says what was chosen, as ``lr=0.001,adapter.r=8``; always the same."""
    text = ",".join(f"{key}={value}" for key, value in chosen.items())
    plain = re.sub(r"[^\w.,=+-]", "_", text)
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


def nested(dotted: Mapping[str, Any], into: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted ones put where they belong: ``adapter.r`` into ``adapter``."""
    made: dict[str, Any] = dict(into)
    for key, value in dotted.items():
        name, dot, rest = key.partition(".")
        inner = made.get(name)
        made[name] = nested({rest: value}, inner if isinstance(inner, Mapping) else {}) if dot else value
    return made


def folder_of(output: Path, chosen: Mapping[str, Any]) -> Path:
    """Return the folder of the trial with these settings."""
    return output / "trials" / folder_name(chosen)

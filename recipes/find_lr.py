"""Find a learning rate: a short training on the real data, with a rate that rises until the loss diverges.

    triptych run sft --find-lr model=nano-omni data=handwriting adapter.r=8
    triptych run find_lr settings.model=nano-omni settings.data=handwriting settings.adapter.r=8

Both do the same: the first takes the line of the training to come. The folder `output` gets find_lr.json
(the rates, the losses and the suggestion) and find_lr.png. The training is `sft` itself, in a folder of its
own that is removed: what it would do and what it has done elsewhere stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes import sft
from studio.chart import Chart, Line
from studio.chart_picture import picture
from studio.config import from_dict, to_dict
from studio.errors import ConfigError, DivergedError
from studio.files import atomic_write
from studio.log import Log
from studio.runs import new_record, write_run
from studio.training.lr_curve import STEPS, Suggestion, diverged, smooth, suggest
from studio.training.tracking import read_metrics
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """What training to find a rate for, and which rates to try."""

    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of sft (settings.data=textiles)"}
    )
    lowest: float = field(default=1e-6, metadata={"help": "the rate of the first step"})
    highest: float = field(default=1.0, metadata={"help": "the rate of the last step"})
    steps: int = field(default=100, metadata={"help": "steps from the lowest to the highest rate"})
    beta: float = field(default=0.9, metadata={"help": "smoothing of the loss: 0 none, 0.98 much"})
    output: Path = field(default=Path("runs/find_lr"), metadata={"help": "folder for the result"})


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "steps": 12,
        "output": "runs/find_lr-smoke",
        "settings": {"batch_size": 4, "adapter": {"r": 4}},
    },
}


class Stop(Exception):
    """Ends the training where its loss has diverged."""


class Watch:
    """Passes a training's reports on, and ends it when the loss diverges."""

    def __init__(self, log: Log, beta: float) -> None:
        """Report to ``log``."""
        self._log, self._beta = log, beta
        self._losses: list[float] = []

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Pass a stage on."""
        self._log.stage("raising the rate" if name == "training" else name, total, unit)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Pass progress on; `Stop` if it has diverged."""
        self._log.advance(n, **figures)
        if "loss" in figures:
            self._losses.append(figures["loss"])
            if diverged(self._losses, self._beta) is not None:
                raise Stop

    def say(self, message: str) -> None:
        """Say nothing: a training that is thrown away has nothing to report."""


def run(config: Config, log: Log) -> Run:
    """Train with a rising rate, look at the losses, and write the suggestion.

    Raises `TriptychError` for a mistake in settings or data, and if the losses suggest nothing.
    """
    if not 0 < config.lowest < config.highest:
        raise ConfigError(f"0 < lowest < highest is needed, not {config.lowest:g} and {config.highest:g}")
    if config.steps < STEPS or not 0 <= config.beta < 1:
        raise ConfigError(f"steps must be at least {STEPS} and beta in [0, 1)")
    trial = config.output / "trial"
    training = ramp(config, trial)

    # The training is sft's own: what is cached, packed or adapted there is here, too.
    shutil.rmtree(trial, ignore_errors=True)
    try:
        sft.run(training, Watch(log, config.beta))
    except (Stop, DivergedError):
        log.say("the loss has diverged, as it had to")
    rows = [row for row in read_metrics(trial) if "loss" in row]
    shutil.rmtree(trial, ignore_errors=True)

    rates, losses = [row["lr"] for row in rows], [row["loss"] for row in rows]
    found = suggest(rates, losses, config.beta)
    told = {**dataclasses.asdict(found), "rates": rates, "losses": losses}
    atomic_write(config.output / "find_lr.json", json.dumps(told, indent=2) + "\n")
    atomic_write(config.output / "find_lr.png", picture([chart(rates, losses, found, config.beta)]))
    figures = {"lr": found.lr, "steepest": found.steepest, "tenth": found.tenth, "steps": float(len(rows))}
    record = new_record("find_lr", to_dict(config), {})
    write_run(config.output, dataclasses.replace(record, state="finished", metrics=figures))
    log.say(
        f"lr={found.lr:.1e} (the loss falls fastest at {found.steepest:.1e}; a tenth of its lowest point is "
        f"{found.tenth:.1e}); see {config.output / 'find_lr.png'}"
    )
    return Run(folder=config.output, metrics=figures)


def ramp(config: Config, folder: Path) -> sft.Config:
    """Return the training to come, with a rate that rises and nothing to look at or to keep."""
    asked = from_dict(sft.Config, config.settings)
    return dataclasses.replace(
        asked,
        output=folder,
        lr=config.highest,
        schedule="ramp",
        max_steps=config.steps,
        save_every=config.steps + 1,
        eval_data=None,
        tracker=None,
        resume=False,
        optimiser=dataclasses.replace(
            asked.optimiser, floor=config.lowest / config.highest, warmup=0.0, ema=0.0
        ),
    )


def chart(rates: list[float], losses: list[float], found: Suggestion, beta: float) -> Chart:
    """Return the losses over the rates, with the suggestion."""
    end = diverged(losses, beta) or len(losses)
    shown = min(len(losses), end + 1)
    line = list(zip(rates[:shown], smooth(losses[:shown], beta), strict=True))
    return Chart(
        title="Loss over the learning rate",
        note=f"suggested {found.lr:.1e}; steepest {found.steepest:.1e}, a tenth of the lowest "
        f"{found.tenth:.1e}",
        x="learning rate",
        y="loss",
        lines=(
            Line(name="each step", points=list(zip(rates, losses, strict=True))[:end], faint=True, colour=0),
            Line(name="smoothed", points=line, colour=0),
        ),
        log_x=True,
        marks=[(found.lr, "suggested")],
    )

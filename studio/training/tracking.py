"""What a run measures while it trains: one JSON line a step, and any accelerate tracker by name."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from torch import Tensor

from studio.config import flatten
from studio.errors import ConfigError, DivergedError, unknown
from studio.files import atomic_write
from studio.log import Log
from studio.training.save import Progress, read_progress

FILE = "metrics.jsonl"
#: Trackers whose package has another name.
PIP = {"comet_ml": "comet-ml", "mlflow": "mlflow-skinny"}
#: What trackers call the name of a run in their project, where it can be given.
NAMES = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}


class Stopwatch:
    """Adds up the time spent inside ``with stopwatch:``."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        """Start."""
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.seconds += time.monotonic() - self._since


class Metrics:
    """Collects steps and writes them to ``metrics.jsonl``, the tracker and the progress display.

    Reading a number makes an accelerator wait for all it has queued, so there steps are written ten at a
    time. The file goes on after the ``progress`` of earlier sessions: rows of later steps, which a killed
    run left, are dropped. ``waiting`` measures how long this process waits for data.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        log: Log,
        config: Mapping[str, Any],
        *,
        progress: Progress | None = None,
        waiting: Stopwatch | None = None,
    ) -> None:
        """Open the file after ``progress``, and the accelerator's tracker with the settings in ``config``."""
        self._before = before = progress or Progress()
        self._accelerator, self._log = accelerator, log
        self._path = folder / FILE
        self._every = 1 if accelerator.device.type == "cpu" else 10
        self._pending: list[tuple[dict[str, Any], Tensor, Tensor, Mapping[str, Tensor]]] = []
        self._origin = time.monotonic() - before.seconds
        self._told = time.monotonic()
        self._samples, self._tokens = before.samples, before.tokens
        self._waiting = waiting or Stopwatch()
        self.loss = math.nan
        if accelerator.log_with:
            told = {
                key: v if isinstance(v, int | float | str) else str(v) for key, v in flatten(config).items()
            }
            name = folder.resolve().name
            named = {tracker: {setting: name} for tracker, setting in NAMES.items()}
            accelerator.init_trackers("triptych", config=told, init_kwargs=named)
        if accelerator.is_main_process:
            kept = [row for row in read_metrics(folder) if row["step"] <= before.step] if before.step else []
            atomic_write(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    @property
    def seconds(self) -> float:
        """The time since the run's first step, without the time between sessions."""
        return time.monotonic() - self._origin

    def noted(self, progress: Progress) -> Progress:
        """Return ``progress`` with what is known up to now of the loss, the times and the amounts."""
        return dataclasses.replace(
            progress,
            loss=self.loss,
            seconds=self.seconds,
            waited=self.waited,
            samples=self._samples,
            tokens=self._tokens,
        )

    @property
    def waited(self) -> float:
        """The seconds of this process's waiting for data, earlier sessions included."""
        return self._before.waited + self._waiting.seconds

    def step(
        self,
        step: int,
        loss: Tensor,
        norm: Tensor,
        lr: float,
        *,
        samples: int,
        tokens: int,
        due: bool,
        stop: bool,
        named: Callable[[], str] = lambda: "",
        figures: Mapping[str, Tensor] | None = None,
    ) -> bool:
        """Note a finished step: this process's share of its ``loss`` [], and the gradient's ``norm`` [].

        ``samples`` and ``tokens`` are those of the step on all processes. ``due`` asks for everything to be
        written now, ``named`` tells the step's rows. ``figures`` are further ones, each a sum of this process
        and what to divide it by [2]; one whose divisors are 0 is left out. Returns whether to stop: that any
        process was asked to ``stop``, told to all of them at the same step.

        Raises:
            DivergedError: if a loss or a norm is not finite.
        """
        row = {"step": step, "samples": samples, "tokens": tokens, "lr": lr, "named": named}
        self._pending.append((row, loss.detach(), norm.detach(), figures or {}))
        return self._flush(stop) if due or len(self._pending) >= self._every else False

    def evaluated(self, step: int, **figures: float) -> None:
        """Note the figures of an evaluation after ``step``, and report them to the log."""
        self._write({"step": step, **figures, "seconds": self.seconds})
        self._log.advance(0, step=step, **figures)
        self._told = time.monotonic()

    def _flush(self, stop: bool) -> bool:
        pending, self._pending = self._pending, []
        norms = torch.stack([norm for _, _, norm, _ in pending]).tolist()
        flag = torch.tensor(float(stop), device=pending[0][1].device)
        shares = [torch.stack([*(loss for _, loss, _, _ in pending), flag])]
        shares += [each.to(flag) for _, _, _, figures in pending for each in figures.values()]
        found = iter(self._accelerator.reduce(torch.cat(shares), reduction="sum").tolist())
        losses, asked = [next(found) for _ in pending], next(found)
        now = time.monotonic()
        samples, tokens = (sum(row[key] for row, *_ in pending) for key in ("samples", "tokens"))
        rate, speed = (amount / max(now - self._told, 1e-9) for amount in (samples, tokens))
        self._samples, self._tokens, self._told = self._samples + samples, self._tokens + tokens, now
        for (row, _, _, more), loss, norm in zip(pending, losses, norms, strict=True):
            sums = [(name, next(found), next(found)) for name in more]
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(self._broken(row, loss, norm))
            figures = {"loss": loss, "lr": row["lr"], "grad_norm": norm}
            figures |= {name: total / weight for name, total, weight in sums if weight}
            rates = {"samples_per_s": rate, "tokens_per_s": speed}
            times = {"seconds": self.seconds, "waited": self.waited}
            self._write({"step": row["step"], **figures, **rates, **times})
        self.loss = losses[-1]
        self._log.advance(len(pending), loss=self.loss, samples_per_s=rate)
        return bool(asked)

    def _broken(self, row: Mapping[str, Any], loss: float, norm: float) -> str:
        saved = read_progress(self._path.parent / "last")
        kept = f"last/ keeps the state after step {saved.step}" if saved else "no state was saved before"
        rows = f", in {told}" if (told := row["named"]()) else ""
        return (
            f"step {row['step']}: the loss is {loss} and the gradient's norm {norm}{rows}; {kept}; "
            "a lower lr, a longer optimiser.warmup or precision=fp32 may help, or leave the rows out"
        )

    def _write(self, row: Mapping[str, Any]) -> None:
        """Append one row, and hand it to the tracker."""
        if not self._accelerator.is_main_process:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({key: _short(value) for key, value in row.items()}) + "\n")
        if self._accelerator.trackers:
            figures = {key: value for key, value in row.items() if key != "step"}
            self._accelerator.log(figures, step=int(row["step"]))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics; a last line that a kill cut short is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def check_tracker(name: str) -> str:
    """Return the name of an accelerate tracker that is installed.

    Raises:
        ConfigError: if there is no such tracker, or its package is missing.
    """
    known = [str(kind) for kind in LOGGER_TYPE_TO_CLASS]
    if name not in known:
        raise ConfigError(f"tracker: {unknown('tracker', name, known)}")
    if name not in [str(kind) for kind in get_available_trackers()]:
        raise ConfigError(f"tracker: '{name}' needs a package: pip install {PIP.get(name, name)}")
    return name


def _short(value: Any) -> Any:
    """Return a number with the digits that mean something; losses keep enough to compare runs."""
    return float(f"{value:.9g}") if isinstance(value, float) else value

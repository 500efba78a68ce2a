"""The rows of a run: new, held-out and old ones, read and hashed, checked, encoded, given epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.assets import find_data
from studio.augment._steps import Step, check_steps, fingerprint
from studio.data import load_data
from studio.data.findings import check_before_training
from studio.data.lengths import Rules
from studio.data.provenance import provenance
from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.continual import Past
from studio.training.encoding import Encoded, encode_samples, open_encoded
from studio.training.epochs import Epochs
from studio.training.processes import Processes
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """A run's rows as tensors: new ones as they are, held-out and old ones, and what an epoch has of them.

    ``samples`` are the new and the old ones, as steps count them; ``steady`` are the sets whose media are
    the same in every epoch.
    """

    samples: Sequence[Sample]
    train: Encoded
    held_out: Encoded
    old: Encoded
    epochs: Epochs
    past: Past
    steady: Sequence[Encoded]

    @property
    def an_epoch(self) -> int:
        """How many rows an epoch has."""
        return self.past.count(len(self.train))

    def of(self, epoch: int, *, ahead: bool = False) -> Encoded:
        """Return an epoch's rows, augmented, those to replay behind them; ``ahead`` begins with the next."""
        return self.past.mixed(self.epochs.of(epoch, ahead=ahead), epoch)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a run reads, the steps that augment it, and what is done about long rows.

    ``origins`` say where each input is from, and ``hashes`` what decides the result, by the setting's name.
    """

    train: Sequence[Sample]
    held_out: Sequence[Sample]
    past: Past
    steps: Sequence[Step]
    limits: Rules
    seed: int
    origins: Mapping[str, Mapping[str, Any]]
    hashes: Mapping[str, str]

    def check(self, log: Log, processes: Processes) -> None:
        """Decode and compare all rows; what one process finds out about a file, others of its machine read.

        Raises:
            DataError: naming the rows that nothing can be learned from.
        """
        with processes.accelerator.local_main_process_first():
            check_before_training([*self.train, *self.held_out], log)
            check_before_training(self.past.rows, log)  # apart: they may be among the new rows

    def encode(self, gauge: Gauge, folder: Path, log: Log, processes: Processes) -> None:
        """Write all rows' tensors into ``folder``, and wait until every process has written its share.

        Raises:
            DataError: naming the rows that `encode_samples` refuses.
        """
        for name, rows in (
            ("encoding", self.train), ("encoding held-out", self.held_out), ("encoding old", self.past.rows),
        ):  # fmt: skip
            encode_samples(gauge, rows, folder, log, rules=self.limits, name=name, part=processes.part)
        processes.accelerator.wait_for_everyone()

    def open(self, gauge: Gauge, folder: Path, log: Log, processes: Processes) -> Tensors:
        """Return the rows that `encode` has written to ``folder``, and say which of them were shortened."""
        train, held_out, old = (
            open_encoded(gauge, rows, folder, self.limits)
            for rows in (self.train, self.held_out, self.past.rows)
        )
        self.past.open(old, len(self.train))
        for name, encoded in (("length", train), ("length, held-out", held_out)):
            if encoded.fitted:
                log.say(
                    f"{name}: " + ", ".join(f"{count} rows {step}" for step, count in encoded.fitted.items())
                )
        epochs = Epochs(
            train, gauge, self.train, folder, log, steps=self.steps, seed=self.seed, rules=self.limits,
            part=processes.part, wait=processes.accelerator.wait_for_everyone,
        )  # fmt: skip
        changes = any(step.takes != "text" for step in self.steps)
        return Tensors(
            samples=[*self.train, *self.past.rows], train=train, held_out=held_out, old=old, epochs=epochs,
            past=self.past, steady=[held_out, old] if changes else [train, held_out, old],
        )  # fmt: skip


def read_rows(config: Any, limits: Rules, steps: Sequence[Step]) -> Rows:
    """Read what a run's settings name as ``data``, ``eval_data`` and ``continual.replay``.

    Raises:
        DataError: naming file and line of rows that are not rows, or that a step must not be done to.
    """
    train = load_data(find_data(config.data), split="train")
    held_out = load_data(find_data(config.eval_data), split="test") if config.eval_data else []
    past = Past(config.continual, config.seed)
    check_steps(steps, train)
    origins = {"data": provenance(train)} | ({"eval_data": provenance(held_out)} if held_out else {})
    origins |= past.origins
    hashes = {name: str(told["sha256"]) for name, told in origins.items()}
    if steps:
        hashes["augment"] = fingerprint(steps)
    return Rows(
        train=train, held_out=held_out, past=past, steps=steps, limits=limits, seed=config.seed,
        origins=origins, hashes=hashes,
    )  # fmt: skip

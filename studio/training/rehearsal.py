"""What a run will take, before it is made: two real steps on the real rows, thrown away afterwards.

The first step takes the longest rows there are, because they decide the memory; the second a batch of usual
length, because it decides the time. Both have the run's own batch size, micro-batches and learning rate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from studio.log import Log
from studio.runs import Record
from studio.training.batches import epoch_batches
from studio.training.fitting import NOT_AT_ALL, Fitting, nbytes
from studio.training.learning import SHARED, table_lines
from studio.training.live import Live
from studio.training.memory import told
from studio.training.rules import tower_of
from studio.training.save import Progress, save_state
from studio.training.towers import own_path
from studio.types import Family, Run


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take: bytes of memory at its peak, seconds, and where they go.

    ``peak`` is what two steps took, or what smaller micro-batches foretell where a whole one does not fit
    into the ``available`` memory; then ``fits`` is False, and ``most`` rows to a micro-batch would.
    ``foretold`` is what the smaller ones say in either case. ``parts`` are the tensors among it by what they
    are for, ``activations`` by the tower that makes them.
    """

    peak: int
    fits: bool
    most: int
    available: int
    foretold: int
    micro_batch: int
    step_rows: int
    steps: int
    seconds: float
    seconds_a_step: float
    longest_step: float
    state: int
    trainable: int
    loss: float
    parts: Mapping[str, int]
    weights: Mapping[str, int]
    activations: Mapping[str, int]
    towers: Mapping[str, Mapping[str, Any]]
    sizes: Sequence[Mapping[str, int]] = ()


@dataclass(kw_only=True)
class Rehearsal:
    """Two steps of a run that is ready to begin; `estimate` is there after `play`."""

    estimate: Estimate | None = None

    def play(self, fitting: Fitting, family: Family, record: Record, *, total: int, size: int) -> Run:
        """Measure a run of ``total`` steps of ``size`` rows, and return the folder of its ``record``.

        Its state is saved there once.
        """
        folder = Path(record.config["output"])
        seed, clip = record.seed, float(record.config["optimiser"]["clip"])
        towers = record.towers
        steps, data, meter = fitting.steps, fitting.data, fitting.meter
        loading, available = meter.peak, meter.available
        rows = min(steps.micro_batch, fitting.step_rows, len(data))
        fits = fitting.fits(rows, available)
        foretold = fitting.foretold(rows)
        parts, weights, activations = self._parts(fitting, family, min(rows, _most(fitting, available)))
        peak, loss, state = max(loading, foretold), 0.0, 0
        longest, usual, tokens = 0.0, 0.0, 1
        batches = epoch_batches(data.lengths, size, seed, 0)
        lengths = [sum(data.lengths[row] for row in batch) for batch in batches]
        if fits:
            middle = sorted(range(len(batches)), key=lambda at: lengths[at])[len(batches) // 2]
            meter.reset()
            learning = [p for group in fitting.optimiser.param_groups for p in group["params"]]
            for number, batch in enumerate((fitting.longest[:size], batches[middle])):
                began = time.monotonic()
                share = steps.gradients(data, batch, seed, number)
                steps.processes.clip(learning, clip, fitting.optimiser)
                fitting.optimiser.step()
                fitting.optimiser.zero_grad()
                loss = float(steps.processes.accelerator.reduce(share))
                longest, usual = max(longest, usual), time.monotonic() - began
            tokens = lengths[middle]
            progress = Progress(step=2, size=size)
            if steps.processes.saves:
                save_state(folder / "last", fitting.plain, fitting.optimiser, progress)
            state = sum(file.stat().st_size for file in (folder / "last").glob("*"))
            peak = max(loading, meter.peak)
        mean = sum(lengths) / len(lengths)
        self.estimate = Estimate(
            peak=peak, fits=fits, most=rows if fits else fitting.largest(available), available=available,
            foretold=foretold, micro_batch=rows, step_rows=size, steps=total,
            seconds=total * usual * mean / tokens, seconds_a_step=usual * mean / tokens, longest_step=longest,
            state=state, trainable=sum(int(row["learning"]) for row in towers.values()), loss=loss,
            parts={"process": max(fitting.before - sum(weights.values()) - parts["moments"], 0), **parts},
            weights=weights, activations=activations, towers=towers,
            sizes=[vars(size) for size in fitting.sizes if size.peak < NOT_AT_ALL],
        )  # fmt: skip
        return Run(folder=folder)

    def _parts(
        self, fitting: Fitting, family: Family, rows: int
    ) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return the bytes of a step's tensors, of weights by tower, of a micro-batch's tensors by tower."""
        weights = Counter[str]()
        learning = 0
        for name, parameter in fitting.plain.named_parameters():
            weights[tower_of(own_path(name), family) or SHARED] += nbytes(parameter)
            learning += nbytes(parameter) if parameter.requires_grad else 0
        fitting.micro(fitting.longest[:1])  # so that gradients are there already, and do not count twice
        known = [p.grad for p in fitting.plain.parameters() if p.grad is not None]
        with Live(fitting.plain, family, known) as live:
            fitting.micro(fitting.longest[:rows])
        fitting.clear()
        parts = {"weights": sum(weights.values()), "gradients": learning, "moments": 2 * learning}
        return {**parts, "activations": live.peak}, dict(weights), dict(live.at_peak)


def lines(found: Estimate) -> list[str]:
    """Return an estimate as lines of text."""
    parts, most = found.parts, found.peak
    known = sum(parts.values())
    by_tower = ", ".join(f"{tower} {told(size)}" for tower, size in found.weights.items() if size)
    made = ", ".join(f"{tower} {told(size)}" for tower, size in found.activations.items() if size)
    out = table_lines(found.towers)
    out += [
        f"{found.trainable:,} parameters learn; {found.step_rows} rows a step, micro-batches of "
        f"{found.micro_batch}; {found.steps} steps",
        f"peak memory {told(most)}, of {told(found.available)} there are"
        + ("" if found.fits else f": too much; micro-batches of {found.most} would fit"),
        f"  {told(parts['process'])} python and the libraries",
        f"  {told(parts['weights'])} weights ({by_tower})",
        f"  {told(parts['gradients'])} gradients, {told(parts['moments'])} moments",
        f"  {told(parts['activations'])} a micro-batch of the longest rows ({made})",
    ]
    if most > known:
        out.append(f"  {told(most - known)} kept free in the heap, workspaces, saving")
    if found.fits:
        out.append(
            f"time {_clock(found.seconds)}: {found.seconds_a_step:.2f} s a step, {found.longest_step:.2f} s "
            "with the longest rows; preparation, evaluation and saving come on top; a saved state takes "
            f"{told(found.state)}"
        )
    return out


def _most(fitting: Fitting, available: int) -> int:
    return max((size.rows for size in fitting.sizes if size.peak <= available), default=1)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rehearse(train: Callable[[Any, Log, Rehearsal], Run], config: Any, log: Log) -> Estimate:
    """Return what a recipe's run would take: ``train`` comes as far as `Rehearsal.play`; its folder goes."""
    with TemporaryDirectory(prefix="triptych-") as folder:
        rehearsal = Rehearsal()
        train(replace(config, output=Path(folder) / "run", resume=None), log, rehearsal)
    assert rehearsal.estimate is not None
    return rehearsal.estimate

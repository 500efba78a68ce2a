"""The model of a run with all that trains it: what learns, its optimiser, its loss, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.adversary import adversary_of
from studio.training.budget import Budget, budget_of
from studio.training.chunked import LOGITS
from studio.training.ema import Average
from studio.training.encoding import Encoded
from studio.training.evaluation import evaluation_loss
from studio.training.learner import make_learner
from studio.training.learning import learning_table
from studio.training.loss import TokenLoss
from studio.training.prefetch import Prefetch
from studio.training.processes import Processes
from studio.training.rows import Tensors
from studio.training.rules import TowerRule
from studio.training.save import Progress, load_state, save_state
from studio.training.shortcuts import Shortcuts, take_shortcuts
from studio.training.step import Steps
from studio.training.towers import parameter_groups
from studio.types import Family, Loaded


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model that is ready to learn, ``plain`` as it was before processes share it.

    ``learning`` are the parameters that learn and ``table`` tells them by tower; ``steps`` gives them their
    gradients; ``average`` and ``budget`` are there if the settings ask for them.
    """

    plain: Any
    optimiser: Any
    loss: TokenLoss
    steps: Steps
    learning: Sequence[torch.nn.Parameter]
    table: dict[str, dict[str, Any]]
    short: Shortcuts
    average: Average | None
    budget: Budget | None
    processes: Processes

    @property
    def count(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.learning)

    def as_used(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights that will be used: their average, if kept."""
        return self.average.in_place() if self.average else nullcontext()

    def evaluated(self, held_out: Encoded) -> float:
        """Return the loss on held-out rows, with micro-batches as large as those of the steps."""
        rows = self.steps.micro_batch
        return evaluation_loss(self.plain, self.loss, held_out, self.short.collate, rows, self.processes)

    def save(self, progress: Progress, folder: Path) -> None:
        """Write all that a run goes on from; every process calls this."""
        if self.processes.saves:
            save_state(
                folder, self.plain, self.optimiser, progress, self.average, self.budget,
                writes=self.processes.main,
            )  # fmt: skip


def make_trainee(
    loaded: Loaded,
    gauge: Gauge,
    rules: Mapping[str, TowerRule],
    config: Any,
    data: Tensors,
    log: Log,
    processes: Processes,
    *,
    dtype: torch.dtype,
    steps: int,
    size: int,
    base_fingerprint: str,
    resumed: bool,
) -> Trainee:
    """Return a loaded model ready for ``steps`` steps of ``size`` rows, as a run's settings have it.

    It computes in ``dtype``. If the run is ``resumed``, the state in its folder is put in place.

    Raises:
        ConfigError: where a rule of a tower, or a way to share the model, does not go with this model.
        CheckpointError: for a state, or an adapter to start from, of another model.
    """
    family: Family = gauge.family
    # On its device before LoRA is put on it, or the factors would stay behind.
    plain = make_learner(
        processes.place(loaded.model), family, rules, config,
        dtype=dtype, steps=steps, base_fingerprint=base_fingerprint,
    )  # fmt: skip
    budget = budget_of(plain)
    collate: Any = partial(family.collate, loaded.processor)
    speed = config.speed
    if config.optimiser.robust and speed.tower_cache:
        # What towers make of a medium is another thing each time the medium is changed.
        log.say("tower_cache: off; adversarial training changes media in every step")
        speed = replace(speed, tower_cache=False)
    short = take_shortcuts(
        plain, gauge, data, speed, partial(collate, side="right"), log, processes, dtype=dtype,
        rows=size // processes.world, micro=config.batch_size,
    )  # fmt: skip
    processes.share(plain)
    optimiser: Any = torch.optim.AdamW(
        parameter_groups(
            plain, config.optimiser.weight_decay, lr=config.lr, loraplus=config.optimiser.loraplus,
            family=family, rules=rules,
        ),
        lr=config.lr, fused=True,
    )  # fmt: skip
    most = LOGITS if config.speed.chunked_loss else 0
    loss = TokenLoss(plain, processes.accelerator.device, dtype, most=most, last=short.last)
    adversary = adversary_of(config, plain, loss, gauge, data.train, log, processes)
    # The anchor holds the weights that the run began with, not those of the state.
    data.past.hold(plain, loss, short.collate, config.output, log, processes, resumed=resumed)
    average = Average(plain, config.optimiser.ema) if config.optimiser.ema else None
    if resumed:
        load_state(config.output / "last", plain, optimiser, average, budget)
    learning = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    model, optimiser = processes.prepare(plain, optimiser, config.optimiser.clip)
    steps_of = Steps(
        model=model, token_loss=loss, micro_batch=config.batch_size,
        feed=Prefetch(short.collate, on=config.speed.prefetch, device=processes.accelerator.device),
        processes=processes, samples=data.samples, log=log, tokens=config.speed.batch_tokens,
        adversary=adversary,
    )  # fmt: skip
    return Trainee(
        plain=plain, optimiser=optimiser, loss=loss, steps=steps_of, learning=learning, short=short,
        table=learning_table(plain, family, rules, method=config.method, lr=config.lr),
        average=average, budget=budget, processes=processes,
    )  # fmt: skip

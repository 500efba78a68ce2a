"""Fine-tune any family on paired pictures, sounds and text: LoRA or full, per tower.

    triptych run sft model=nano-omni data=handwriting output=runs/handwriting max_steps=200

The folder `output` gets run.json, metrics.jsonl, adapter/ (or model/), last/ (to go on from), a card and
report.html with the curves and whether it over- or underfits.
Several processes: `--nproc N`; on several machines `torchrun ... --no-python triptych run sft ...`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio import families
from studio.assets import find_model
from studio.augment._steps import read_steps
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data.lengths import rules as length_rules
from studio.families._gauge import Gauge
from studio.log import Log, QuietLog
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.batches import epoch_batches, steps_per_epoch
from studio.training.continuing import start_hash
from studio.training.fitting import Fitting, fit
from studio.training.interrupt import Interrupt
from studio.training.learner import check_learner, type_to_load
from studio.training.learning import table_lines
from studio.training.loss import Precision, compute_type
from studio.training.processes import join
from studio.training.rehearsal import Estimate, Rehearsal, rehearse
from studio.training.result import conclude, keep
from studio.training.rows import read_rows
from studio.training.save import Progress, read_progress
from studio.training.schedule import Schedule, factor, warmup_steps
from studio.training.seed import set_seed
from studio.training.settings import (
    Adapter,
    Continual,
    Evaluate,
    Optimiser,
    Speed,
    above_zero,
    check_settings,
    not_negative,
)
from studio.training.threads import set_threads
from studio.training.towers import set_rates, train_mode
from studio.training.tracking import Metrics
from studio.training.trainee import make_trainee
from studio.types import Loaded, Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a fine-tuning run."""

    model: str = field(
        default="nano-omni", metadata={"help": "base: folder, shipped name, or id in the cache"}
    )
    data: str = field(
        default="handwriting", metadata={"help": "rows: .jsonl, folder (train.jsonl), shipped name"}
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "held-out rows (test.jsonl); choose the best"}
    )
    length: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "long rows: length.max_tokens (0: the model's), .policy error|fit|drop, "
            ".audio error|chunk|cut"
        },
    )
    augment: tuple[dict[str, Any], ...] = field(
        default=(),
        metadata={
            "help": "what is done to rows in each epoch: [{speed: {factor: [0.9, 1.1]}}, {blur: {p: 0.5}}]"
        },
    )
    output: Path = field(default=Path("runs/sft"), metadata={"help": "the run's folder"})
    method: str = field(
        default="lora",
        metadata={"help": "lora, dora, pissa, adalora, ia3 or any other of PEFT, bitfit, full"},
    )
    towers: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "rule per tower, lora|full|bitfit|frozen (towers.vision=lora, towers.audio.lora.r=8, "
            ".lr=5e-5, .precision=bf16); the rest: lora on llm only, or full for full"
        },
    )
    adapter: Adapter = field(default_factory=Adapter, metadata={"help": "what the adapter is like"})
    lr: float = field(default=2e-4, metadata={"help": "peak learning rate"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the data"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    batch_size: int = field(default=8, metadata={"help": "samples in a micro-batch, on each process"})
    accumulate: int = field(default=1, metadata={"help": "micro-batches a step; 8 x 1 does as 2 x 4"})
    memory: str | None = field(
        default=None, metadata={"help": "8GB: cut batch_size x accumulate so that a process takes no more"}
    )
    schedule: Schedule = field(default="cosine", metadata={"help": "the learning rate after the warm-up"})
    optimiser: Optimiser = field(default_factory=Optimiser, metadata={"help": "the steps it takes"})
    seed: int = field(default=0, metadata={"help": "seed of LoRA's start, the order and dropout"})
    evaluate: Evaluate = field(default_factory=Evaluate, metadata={"help": "looking at held-out rows"})
    save_every: int = field(default=100, metadata={"help": "steps between saved states; 0: once an epoch"})
    speed: Speed = field(default_factory=Speed, metadata={"help": "what makes it faster"})
    precision: Precision = field(
        default="auto",
        metadata={"help": "auto is bf16 where the device has it; nf4, nf4-double, int8: QLoRA"},
    )
    continual: Continual = field(default_factory=Continual, metadata={"help": "keeping what it could"})
    tracker: str | None = field(default=None, metadata={"help": "an accelerate tracker beside metrics.jsonl"})
    resume: bool | None = field(default=None, metadata={"help": "go on from output/last; none: if possible"})


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "output": "runs/smoke",
        "max_steps": 6,
        "batch_size": 4,
        "lr": 1e-3,
        "adapter": {"r": 4},
        "optimiser": {"warmup": 2},
    },
    # 8 to 64 examples: few ranks and dropout against learning by heart, many passes, an end when it worsens.
    "few_shot": {
        "output": "runs/few_shot",
        "epochs": 20,
        "batch_size": 4,
        "lr": 5e-4,
        "adapter": {"r": 8, "alpha": 16, "dropout": 0.1},
        "optimiser": {"warmup": 0.1, "weight_decay": 0.01},
        "evaluate": {"patience": 3},
    },
}  # fmt: skip

#: Settings that do not change what a run computes; with another value it may go on from the same state.
APART = ("output", "save_every", "memory", "tracker", "resume", "speed", "evaluate.answers")
#: Several processes may work on one run.
PARALLEL = True


def run(config: Config, log: Log) -> Run:
    """Fine-tune as configured and return the run; a killed run goes on where it was.

    Raises `TriptychError` for a mistake in settings, model or data, before the first step, and when the loss
    stops being a number. `KeyboardInterrupt` follows Ctrl-C, after the state is saved.
    """
    return _train(config, log)


def estimate(config: Config, log: Log) -> Estimate:
    """Return what the run would take, measured by two of its steps; nothing is written to its folder."""
    return rehearse(_train, config, log)


def _train(config: Config, log: Log, rehearsal: Rehearsal | None = None) -> Run:
    check(config)
    limits, augment = length_rules(config.length), read_steps(config.augment)
    began = time.monotonic()
    base, output = find_model(config.model), config.output
    family = families.detect(base)
    rules = check_learner(config, family)
    beside_llm = any(rule.learns for tower, rule in rules.items() if tower != "llm")

    # Processes: the environment says how many there are, and on what device.
    processes = join(output, tracker=config.tracker, unused=beside_llm, strategy=config.speed.strategy)
    accelerator, main, world = processes.accelerator, processes.main, processes.world
    log = log if main else QuietLog()

    # Seed: the adapter's start depends on it. The number of threads only changes the last digits.
    set_seed(config.seed)
    threads = set_threads()

    # Data: read and hashed before anything is loaded, so that a finished run is known at once.
    rows = read_rows(config, limits, augment)
    inputs = {"model": Checkpoint(base).fingerprint(), **rows.hashes}
    if config.adapter.start:
        inputs["adapter.start"] = start_hash(config.adapter.start, config.method, inputs["model"])
    record = new_record("sft", to_dict(config), inputs, apart=APART, data=rows.origins)
    old = find_same(output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{output} is finished with these settings and inputs; resume=false trains it again")
        return Run(folder=output, metrics=old.metrics)

    # Check: every row is decoded and encoded now, not in step 900. Processes of one machine share the work.
    rows.check(log, processes)
    dtype = compute_type(config.precision, accelerator.device)
    loaded = family.load(base, dtype=type_to_load(config, rules, dtype))
    gauge = Gauge(folder=base, family=family, processor=loaded.processor, config=loaded.model.config)
    rows.encode(gauge, output / "encoded", log, processes)
    if main:
        begin_run(output, record, fresh=old is None)
    accelerator.wait_for_everyone()
    progress = read_progress(output / "last") or Progress()
    data = rows.open(gauge, output / "encoded", log, processes)
    size = progress.size or config.batch_size * config.accumulate * world
    progress = dataclasses.replace(progress, size=size)
    per_epoch = steps_per_epoch(data.an_epoch, size)
    total = config.max_steps or max(1, math.ceil(config.epochs * per_epoch))

    # Model: what learns of it, what makes it faster and computes the same, its optimiser, its saved state.
    trainee = make_trainee(
        loaded, gauge, rules, config, data, log, processes,
        dtype=dtype, steps=total, size=size, base_fingerprint=inputs["model"], resumed=progress.step > 0,
    )  # fmt: skip
    plain, optimiser, steps = trainee.plain, trainee.optimiser, trainee.steps
    towers, average, budget = trainee.short.towers, trainee.average, trainee.budget
    record = dataclasses.replace(record, towers=trainee.table)
    log.say(f"{family.name}: {trainee.count:,} parameters learn; {threads} threads")
    for line in table_lines(trainee.table):
        log.say(f"  {line}")
    train_mode(plain)
    fitting = Fitting(
        steps=steps, plain=plain, data=data.train, optimiser=optimiser, step_rows=-(-size // world)
    )
    if config.memory:
        fit(fitting, config.memory, family, rules, log, checkpointed=config.speed.checkpointing)
    if rehearsal:
        return rehearsal.play(fitting, family, record, total=total, size=size)

    # Loop. What a step does is a function of the seed and the step alone; that makes resuming exact.
    warmup = warmup_steps(config.optimiser.warmup, total)
    eval_every, save_every = config.evaluate.every or per_epoch, config.save_every or per_epoch
    if progress.step:
        log.say(f"going on after step {progress.step} of {total}")
    patience = config.evaluate.patience
    last = progress.step if patience and progress.stale >= patience else total
    log.stage("training", last - progress.step, "steps")
    prepared = time.monotonic() - began
    metrics = Metrics(output, accelerator, log, record.config, progress=progress, waiting=steps.waiting)
    batches: list[list[int]] = []
    with Interrupt() as interrupt, steps.feed, data.epochs:
        for step in range(progress.step, last):
            if not batches or step % per_epoch == 0:
                more = (step // per_epoch + 1) * per_epoch < last
                epoch = data.of(step // per_epoch, ahead=more and config.speed.prefetch)
                batches = epoch_batches(epoch.lengths, size, config.seed, step // per_epoch)
                if towers:
                    towers.attach(epoch)
                steps.begin(epoch, batches[step % per_epoch :])
                if augment:
                    log.stage("training", total - step, "steps")
            batch = batches[step % per_epoch]
            lr = config.lr * factor(step, total, warmup, config.schedule, config.optimiser.shape)
            set_rates(optimiser, lr)

            loss = steps.gradients(epoch, batch, config.seed, step)
            if budget:
                budget.add_gradients()
            rows.past.pull()
            norm = processes.clip(trainee.learning, config.optimiser.clip, optimiser)
            optimiser.step()
            if budget:
                budget.after_step(step + 1)
            optimiser.zero_grad()
            if average:
                average.update(step + 1)

            done = step + 1
            evaluate = bool(rows.held_out) and (done % eval_every == 0 or done == total)
            save = done % save_every == 0 or done == total
            stop = metrics.step(
                done, loss, norm, lr, samples=len(batch), tokens=sum(epoch.lengths[row] for row in batch),
                due=evaluate or save, stop=interrupt.asked, named=steps.named(epoch, batch),
            )  # fmt: skip
            if evaluate:
                # The moving average is what will be used, so it is what is judged and kept.
                with trainee.as_used():
                    value = trainee.evaluated(data.held_out)
                    metrics.evaluated(done, eval_loss=value)
                    progress = progress.judged(done, value)
                    if progress.best_step == done:
                        keep(plain, loaded, family, output, record, done, processes)
                train_mode(plain)
            enough = evaluate and 0 < patience <= progress.stale
            progress = metrics.noted(dataclasses.replace(progress, step=done))
            if save or stop or enough:
                trainee.save(progress, output / "last")
            if enough:
                log.say(f"stopped early: {progress.stale} evaluations without a better one")
                break
            if stop and done < total:
                if main:
                    write_run(output, dataclasses.replace(record, state="stopped"))
                log.say(f"stopped after step {done} of {total}; the same command goes on from there")
                raise KeyboardInterrupt

    # Save: the adapter or model of the best evaluation is there already; without evaluation it is the last.
    figures = {"steps": float(progress.step), "loss": progress.loss, "trainable": float(trainee.count)}
    if rows.held_out:
        figures |= {"eval_loss": progress.best, "best_step": float(progress.best_step)}
    timings = {"prepare": prepared, "train": progress.seconds}
    record = dataclasses.replace(record, state="finished", metrics=figures, timings=timings)
    trainee.loss.close()
    with trainee.as_used():
        if not rows.held_out:
            keep(plain, loaded, family, output, record, progress.step, processes)
        conclude(
            Loaded(plain, loaded.processor), family, output, record, rows.held_out, processes, log,
            answers=config.evaluate.answers,
            last_is_kept=not rows.held_out or progress.best_step == progress.step,
        )  # fmt: skip
    accelerator.end_training()
    return Run(folder=output, metrics=figures)


def check(config: Config) -> None:
    """Raise one `ConfigError` with every setting that is out of range."""
    positive = above_zero(config, "lr", "epochs", "max_steps", "batch_size", "accumulate")
    check_settings(config, [*positive, *not_negative(config, "save_every")])

"""Improve a model or an adapter by what people preferred: DPO, IPO, KTO, ORPO or SimPO.

    triptych votes --export preferences
    triptych run dpo data=preferences adapter.start=runs/textiles output=runs/preferred

Rows have `chosen` and `rejected` (for KTO, an answer that is called good or bad will do). What the model said
before is the reference: the base with a fresh adapter, or the adapter of `adapter.start`. The folder `output`
is that of the recipe sft; report.html says whether preference accuracy rose on rows that were held out.
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
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data.lengths import rules as length_rules
from studio.families._gauge import Gauge
from studio.log import Log, QuietLog
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.batches import epoch_batches, steps_per_epoch
from studio.training.continuing import start_hash
from studio.training.fitting import Fitting
from studio.training.interrupt import Interrupt
from studio.training.learner import check_learner, type_to_load
from studio.training.learning import table_lines
from studio.training.loss import Precision, compute_type
from studio.training.preference import Name, Preference
from studio.training.preference_loss import PreferenceLoss, divergence, evaluated
from studio.training.preference_run import Votes, as_answered, read_preference_rows
from studio.training.preference_verdict import before_and_after
from studio.training.prefetch import Prefetch
from studio.training.processes import join
from studio.training.reference import reference_key
from studio.training.rehearsal import Estimate, Rehearsal, rehearse
from studio.training.result import conclude, keep
from studio.training.save import Progress, read_progress
from studio.training.schedule import Schedule, factor, warmup_steps
from studio.training.seed import set_seed
from studio.training.settings import (
    Adapter,
    Evaluate,
    Optimiser,
    Speed,
    above_zero,
    check_settings,
    not_negative,
)
from studio.training.shared_media import share_media
from studio.training.threads import set_threads
from studio.training.towers import set_rates, train_mode
from studio.training.tracking import Metrics, read_metrics
from studio.training.trainee import make_trainee
from studio.types import Loaded, Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run that learns preferences."""

    model: str = field(
        default="nano-omni", metadata={"help": "base: folder, shipped name, or id in the cache"}
    )
    data: str = field(
        default="preferences", metadata={"help": "preferences: exported votes, .jsonl, folder (train.jsonl)"}
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "held-out preferences (test.jsonl); none: votes.hold_out"}
    )
    votes: Votes = field(default_factory=Votes, metadata={"help": "what is made of the rows"})
    length: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "long rows: length.max_tokens (0: the model's), .policy error|fit|drop"},
    )
    output: Path = field(default=Path("runs/dpo"), metadata={"help": "the run's folder"})
    loss: Name = field(default="dpo", metadata={"help": "what is learned from: dpo, ipo, kto, orpo or simpo"})
    preference: Preference = field(default_factory=Preference, metadata={"help": "what the loss is like"})
    method: str = field(
        default="lora", metadata={"help": "lora, dora or another method that `triptych ls training` lists"}
    )
    towers: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "rule per tower, lora|full|bitfit|frozen; the rest: lora on llm only"},
    )
    adapter: Adapter = field(
        default_factory=Adapter, metadata={"help": "what the adapter is like; adapter.start: what to improve"}
    )
    lr: float = field(default=5e-5, metadata={"help": "peak learning rate"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the data"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    batch_size: int = field(default=4, metadata={"help": "preferences in a micro-batch, on each process"})
    accumulate: int = field(default=2, metadata={"help": "micro-batches a step; 8 x 1 does as 2 x 4"})
    schedule: Schedule = field(default="cosine", metadata={"help": "the learning rate after the warm-up"})
    optimiser: Optimiser = field(default_factory=Optimiser, metadata={"help": "the steps it takes"})
    seed: int = field(default=0, metadata={"help": "seed of what is held out, the order and dropout"})
    evaluate: Evaluate = field(default_factory=Evaluate, metadata={"help": "looking at held-out rows"})
    save_every: int = field(default=100, metadata={"help": "steps between saved states; 0: once an epoch"})
    speed: Speed = field(default_factory=Speed, metadata={"help": "what makes it faster"})
    precision: Precision = field(
        default="auto",
        metadata={"help": "auto is bf16 where the device has it; nf4, nf4-double, int8: QLoRA"},
    )
    tracker: str | None = field(default=None, metadata={"help": "an accelerate tracker beside metrics.jsonl"})
    resume: bool | None = field(default=None, metadata={"help": "go on from output/last; none: if possible"})


PRESETS: dict[str, dict[str, Any]] = {
    # Shipped rows have one answer each, the right one; another row's stands for what nobody would choose.
    "smoke": {
        "data": "textiles",
        "votes": {"wrong_answers": True, "most": 48, "hold_out": 0.25},
        "output": "runs/smoke-dpo",
        "max_steps": 4,
        "lr": 1e-3,
        "adapter": {"r": 4},
        "optimiser": {"warmup": 1},
        "evaluate": {"answers": 1},
    },
    # Some hundred votes on an expert or a merge of the demo's size. The chosen answer is learned as well: it
    # holds back what a preference alone would wash away. The run ends when held-out votes get no nearer.
    "votes": {
        "output": "runs/preferred",
        "preference": {"beta": 0.5, "sft": 1.0, "smoothing": 0.02},
        "epochs": 3,
        "lr": 3e-4,
        "batch_size": 8,
        "accumulate": 1,
        "optimiser": {"warmup": 0.1},
        "evaluate": {"patience": 2},
    },
}  # fmt: skip

#: Settings that do not change what a run computes; with another value it may go on from the same state.
APART = ("output", "save_every", "tracker", "resume", "speed", "evaluate.answers")
#: Several processes may work on one run.
PARALLEL = True


def run(config: Config, log: Log) -> Run:
    """Learn preferences as configured and return the run; a killed run goes on where it was.

    Raises `TriptychError` for a mistake in settings, model or data, before the first step, and when the loss
    stops being a number. `KeyboardInterrupt` follows Ctrl-C, after the state is saved.
    """
    return _train(config, log)


def estimate(config: Config, log: Log) -> Estimate:
    """Return what the run would take, measured by two of its steps; nothing is written to its folder.

    What the reference says of the answers is not computed: it changes neither memory nor the time of a step.
    """
    return rehearse(_train, config, log)


def _train(config: Config, log: Log, rehearsal: Rehearsal | None = None) -> Run:
    check(config)
    limits = length_rules(config.length)
    began = time.monotonic()
    base, output = find_model(config.model), config.output
    family = families.detect(base)
    rules = check_learner(config, family)
    beside_llm = any(rule.learns for tower, rule in rules.items() if tower != "llm")

    # Processes: the environment says how many there are, and on what device.
    processes = join(output, tracker=config.tracker, unused=beside_llm, strategy=config.speed.strategy)
    accelerator, main, world = processes.accelerator, processes.main, processes.world
    log = log if main else QuietLog()

    # Seed: the adapter's start and what is held out depend on it.
    set_seed(config.seed)
    threads = set_threads()

    # Data: read and hashed before anything is loaded, so that a finished run is known at once.
    rows = read_preference_rows(config, limits)
    inputs = {"model": Checkpoint(base).fingerprint(), **rows.hashes}
    if config.adapter.start:
        inputs["adapter.start"] = start_hash(config.adapter.start, config.method, inputs["model"])
    record = new_record("dpo", to_dict(config), inputs, apart=APART, data=rows.origins)
    old = find_same(output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{output} is finished with these settings and inputs; resume=false trains it again")
        return Run(folder=output, metrics=old.metrics)
    log.say(f"{len(rows.train.items)} preferences to learn from, {len(rows.held_out.items)} held out")

    # Check: both answers of every row are encoded now. Processes of one machine share the work.
    rows.check(log, processes)
    dtype = compute_type(config.precision, accelerator.device)
    loaded = family.load(base, dtype=type_to_load(config, rules, dtype))
    gauge = Gauge(folder=base, family=family, processor=loaded.processor, config=loaded.model.config)
    rows.encode(gauge, output / "encoded", log, processes)
    if main:
        begin_run(output, record, fresh=old is None)
    accelerator.wait_for_everyone()
    progress = read_progress(output / "last") or Progress()
    preference = PreferenceLoss(config.loss, config.preference)
    data = rows.open(
        gauge, output / "encoded", log,
        key=reference_key(gauge, config, inputs, device=accelerator.device, dtype=dtype),
        size=2 * config.batch_size, asked=preference.kind.reference and rehearsal is None,
    )  # fmt: skip
    size = progress.size or config.batch_size * config.accumulate * world
    progress = dataclasses.replace(progress, size=size)
    per_epoch = steps_per_epoch(len(data.pairs), size)
    total = config.max_steps or max(1, math.ceil(config.epochs * per_epoch))

    # Model: what learns of it. Before a saved state is put in its place, it is asked as the reference.
    trainee = make_trainee(
        loaded, gauge, rules, config, data, log, processes,
        dtype=dtype, steps=total, size=size, base_fingerprint=inputs["model"], resumed=progress.step > 0,
    )  # fmt: skip
    plain, optimiser, steps = trainee.plain, trainee.optimiser, trainee.steps
    average, budget, single = trainee.average, trainee.budget, trainee.short.collate
    record = dataclasses.replace(record, towers=trainee.table)
    log.say(f"{family.name}: {trainee.count:,} parameters learn; {threads} threads")
    for line in table_lines(trainee.table):
        log.say(f"  {line}")
    # A tower that learns is not skipped, but it runs once for both answers.
    skipped = trainee.short.towers.cuts if trainee.short.towers else ()
    collate = share_media(plain, gauge, data.pairs, single, log, processes, dtype=dtype, skipped=skipped)
    preference.tokens = trainee.loss
    steps.token_loss = preference
    steps.feed = Prefetch(collate, on=config.speed.prefetch, device=accelerator.device)
    train_mode(plain)
    if rehearsal:
        fitting = Fitting(
            steps=steps, plain=plain, data=data.pairs, optimiser=optimiser, step_rows=-(-size // world)
        )
        return rehearsal.play(fitting, family, record, total=total, size=size)

    def look(step: int) -> dict[str, float]:
        """Return the loss on held-out preferences and how many of them are met, and note them."""
        every = range(len(data.held_out))
        if config.loss == "kto":
            preference.z = divergence(
                plain, trainee.loss, data.held_out, every, single, steps.micro_batch, processes
            )
        found = evaluated(plain, preference, data.held_out, collate, steps.micro_batch, processes)
        metrics.evaluated(step, **{f"eval_{name}": value for name, value in found.items()})
        return found

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
    held_out = len(data.held_out) > 0
    if held_out and not progress.step:
        look(0)
    batches: list[list[int]] = []
    with Interrupt() as interrupt, steps.feed:
        for step in range(progress.step, last):
            if not batches or step % per_epoch == 0:
                batches = epoch_batches(data.pairs.lengths, size, config.seed, step // per_epoch)
                steps.begin(data.pairs, batches[step % per_epoch :])
            batch = batches[step % per_epoch]
            lr = config.lr * factor(step, total, warmup, config.schedule, config.optimiser.shape)
            set_rates(optimiser, lr)

            if config.loss == "kto":  # one reference point for the whole step, however it is cut
                preference.z = divergence(
                    plain, trainee.loss, data.pairs, batch, single, steps.micro_batch, processes
                )
            loss = steps.gradients(data.pairs, batch, config.seed, step)
            if budget:
                budget.add_gradients()
            norm = processes.clip(trainee.learning, config.optimiser.clip, optimiser)
            optimiser.step()
            if budget:
                budget.after_step(step + 1)
            optimiser.zero_grad()
            if average:
                average.update(step + 1)

            done = step + 1
            evaluate = held_out and (done % eval_every == 0 or done == total)
            save = done % save_every == 0 or done == total
            stop = metrics.step(
                done, loss, norm, lr, samples=len(batch), tokens=sum(data.pairs.lengths[i] for i in batch),
                due=evaluate or save, stop=interrupt.asked, named=steps.named(data.pairs, batch),
                figures=preference.of_step(steps, data.pairs, batch),
            )  # fmt: skip
            if evaluate:
                # The moving average is what will be used, so it is what is judged and kept.
                with trainee.as_used():
                    progress = progress.judged(done, look(done)["loss"])
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
    if held_out:
        figures |= {"eval_loss": progress.best, "best_step": float(progress.best_step)}
        figures |= before_and_after(read_metrics(output), progress.best_step, len(data.held_out))
    timings = {"prepare": prepared, "train": progress.seconds}
    record = dataclasses.replace(record, state="finished", metrics=figures, timings=timings)
    trainee.loss.close()
    with trainee.as_used():
        if not held_out:
            keep(plain, loaded, family, output, record, progress.step, processes)
        conclude(
            Loaded(plain, loaded.processor), family, output, record, as_answered(rows.held_out.samples),
            processes, log, answers=config.evaluate.answers,
            last_is_kept=not held_out or progress.best_step == progress.step,
            use=f"triptych serve {config.model} {output}",
        )  # fmt: skip
    accelerator.end_training()
    return Run(folder=output, metrics=figures)


def check(config: Config) -> None:
    """Raise one `ConfigError` with every setting that is out of range."""
    positive = above_zero(config, "lr", "epochs", "max_steps", "batch_size", "accumulate")
    groups = [
        f"{name}.{sentence}" for name in ("preference", "votes") for sentence in getattr(config, name).wrong()
    ]
    if config.optimiser.robust:
        groups.append(
            "optimiser.robust_eps is for the recipe sft; preferences are learned from media as they are"
        )
    check_settings(config, [*positive, *not_negative(config, "save_every"), *groups])

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
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from studio import families
from studio.assets import find_data, find_model
from studio.augment._steps import check_steps, fingerprint, read_steps
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data import load_data
from studio.data.findings import check_before_training
from studio.data.lengths import rules as length_rules
from studio.data.provenance import provenance
from studio.families._gauge import Gauge
from studio.log import Log, QuietLog
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.batches import epoch_batches, steps_per_epoch
from studio.training.budget import budget_of
from studio.training.chunked import LOGITS
from studio.training.continual import Past
from studio.training.continuing import start_hash
from studio.training.ema import Average
from studio.training.encoding import encode_samples, open_encoded
from studio.training.epochs import Epochs
from studio.training.evaluation import evaluation_loss
from studio.training.fast_paths import FastPaths
from studio.training.fitting import Fitting, fit
from studio.training.interrupt import Interrupt
from studio.training.learner import check_learner, make_learner, type_to_load
from studio.training.learning import learning_table, table_lines
from studio.training.loss import Precision, TokenLoss, compute_type
from studio.training.prefetch import Prefetch
from studio.training.processes import join
from studio.training.rehearsal import Estimate, Rehearsal
from studio.training.result import conclude, keep
from studio.training.save import Progress, load_average, load_budget, load_state, read_progress, save_state
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
from studio.training.skipping import skip_towers
from studio.training.step import Steps
from studio.training.threads import set_threads
from studio.training.towers import parameter_groups, set_rates, train_mode
from studio.training.tracking import Metrics
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
    with TemporaryDirectory(prefix="triptych-") as folder:
        rehearsal = Rehearsal()
        _train(dataclasses.replace(config, output=Path(folder) / "run", resume=None), log, rehearsal)
    assert rehearsal.estimate is not None
    return rehearsal.estimate


def _train(config: Config, log: Log, rehearsal: Rehearsal | None = None) -> Run:
    check(config)
    limits, steps = length_rules(config.length), read_steps(config.augment)
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
    train = load_data(find_data(config.data), split="train")
    held_out = load_data(find_data(config.eval_data), split="test") if config.eval_data else []
    past = Past(config.continual, config.seed)
    check_steps(steps, train)
    origins = {"data": provenance(train)} | ({"eval_data": provenance(held_out)} if held_out else {})
    origins |= past.origins
    inputs = {"model": Checkpoint(base).fingerprint()} | {k: told["sha256"] for k, told in origins.items()}
    if steps:
        inputs["augment"] = fingerprint(steps)
    if config.adapter.start:
        inputs["adapter.start"] = start_hash(config.adapter.start)
    record = new_record("sft", to_dict(config), inputs, apart=APART, data=origins)
    old = find_same(output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{output} is finished with these settings and inputs; resume=false trains it again")
        return Run(folder=output, metrics=old.metrics)

    # Check: every row is decoded and encoded now, not in step 900. Processes of one machine share the work;
    # what one of them finds out about a file the others read.
    with accelerator.local_main_process_first():
        check_before_training([*train, *held_out], log)
        check_before_training(past.rows, log)  # apart: they may be among the new rows
    dtype = compute_type(config.precision, accelerator.device)
    loaded = family.load(base, dtype=type_to_load(config, rules, dtype))
    gauge = Gauge(folder=base, family=family, processor=loaded.processor, config=loaded.model.config)
    shards = output / "encoded"
    for name, rows in (("encoding", train), ("encoding held-out", held_out), ("encoding old", past.rows)):
        encode_samples(gauge, rows, shards, log, rules=limits, name=name, part=processes.part)
    accelerator.wait_for_everyone()
    if main:
        begin_run(output, record, fresh=old is None)
    accelerator.wait_for_everyone()
    progress = read_progress(output / "last") or Progress()
    data, eval_set = (open_encoded(gauge, rows, shards, limits) for rows in (train, held_out))
    old_set = past.open(open_encoded(gauge, past.rows, shards, limits), len(train))
    for name, encoded in (("length", data), ("length, held-out", eval_set)):
        if encoded.fitted:
            log.say(f"{name}: " + ", ".join(f"{count} rows {step}" for step, count in encoded.fitted.items()))
    epochs = Epochs(
        data, gauge, train, shards, log, steps=steps, seed=config.seed, rules=limits,
        part=processes.part, wait=accelerator.wait_for_everyone,
    )  # fmt: skip
    collate = partial(family.collate, loaded.processor, side="right")

    # Model: on its device before LoRA is put on it, or the factors would stay behind.
    size = progress.size or config.batch_size * config.accumulate * world
    progress = dataclasses.replace(progress, size=size)
    per_epoch = steps_per_epoch(past.count(len(data)), size)
    total = config.max_steps or max(1, math.ceil(config.epochs * per_epoch))
    plain = make_learner(
        processes.place(loaded.model), family, rules, config,
        dtype=dtype, steps=total, base_fingerprint=inputs["model"],
    )  # fmt: skip
    budget = budget_of(plain)
    fast = FastPaths(plain, config.speed, data, log, processes, dtype=dtype)
    fast.products(collate)
    # Frozen towers: computed once for each medium, unless it is another one in every epoch.
    changes = any(step.takes != "text" for step in steps)
    towers = None
    if config.speed.tower_cache:
        datasets = [eval_set, old_set] if changes else [data, eval_set, old_set]
        towers = skip_towers(plain, gauge, datasets, collate, log, processes, dtype=dtype)
    if towers:
        collate = towers.collate(collate)
    collate = fast.packing(collate, size // world, config.batch_size)
    fast.short_queries(collate)
    top = fast.last_layer(collate)
    fast.compiled(collate)
    processes.share(plain)
    learning = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in learning)
    groups = parameter_groups(
        plain, config.optimiser.weight_decay, lr=config.lr, loraplus=config.optimiser.loraplus,
        family=family, rules=rules,
    )  # fmt: skip
    optimiser: Any = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    most = LOGITS if config.speed.chunked_loss else 0
    token_loss = TokenLoss(plain, accelerator.device, dtype, most=most, last=top)
    past.hold(plain, token_loss, collate, output, log, processes, resumed=progress.step > 0)
    if progress.step:
        load_state(output / "last", plain, optimiser)
    if budget and progress.step:
        load_budget(output / "last", budget)
    model, optimiser = processes.prepare(plain, optimiser, config.optimiser.clip)
    average = Average(plain, config.optimiser.ema) if config.optimiser.ema else None
    if average and progress.step:
        load_average(output / "last", average)
    step_of = Steps(
        model=model, token_loss=token_loss, micro_batch=config.batch_size,
        feed=Prefetch(collate, on=config.speed.prefetch, device=accelerator.device),
        processes=processes, samples=[*train, *past.rows], log=log, tokens=config.speed.batch_tokens,
    )  # fmt: skip
    record = dataclasses.replace(
        record, towers=learning_table(plain, family, rules, method=config.method, lr=config.lr)
    )
    log.say(f"{family.name}: {count:,} parameters learn; {threads} threads")
    for line in table_lines(record.towers):
        log.say(f"  {line}")
    train_mode(plain)
    fitting = Fitting(steps=step_of, plain=plain, data=data, optimiser=optimiser, step_rows=-(-size // world))
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
    metrics = Metrics(output, accelerator, log, record.config, progress=progress, waiting=step_of.waiting)
    batches: list[list[int]] = []
    with Interrupt() as interrupt, step_of.feed, epochs:
        for step in range(progress.step, last):
            if not batches or step % per_epoch == 0:
                more = (step // per_epoch + 1) * per_epoch < last
                data = epochs.of(step // per_epoch, ahead=more and config.speed.prefetch)
                data = past.mixed(data, step // per_epoch)
                batches = epoch_batches(data.lengths, size, config.seed, step // per_epoch)
                if towers:
                    towers.attach(data)
                step_of.begin(data, batches[step % per_epoch :])
                if steps:
                    log.stage("training", total - step, "steps")
            batch = batches[step % per_epoch]
            lr = config.lr * factor(step, total, warmup, config.schedule, config.optimiser.shape)
            set_rates(optimiser, lr)

            loss = step_of.gradients(data, batch, config.seed, step)
            if budget:
                budget.add_gradients()
            past.pull()
            norm = processes.clip(learning, config.optimiser.clip, optimiser)
            optimiser.step()
            if budget:
                budget.after_step(step + 1)
            optimiser.zero_grad()
            if average:
                average.update(step + 1)

            done = step + 1
            evaluate = bool(held_out) and (done % eval_every == 0 or done == total)
            save = done % save_every == 0 or done == total
            stop = metrics.step(
                done, loss, norm, lr, samples=len(batch), tokens=sum(data.lengths[index] for index in batch),
                due=evaluate or save, stop=interrupt.asked, named=step_of.named(data, batch),
            )  # fmt: skip
            if evaluate:
                # The moving average is what will be used, so it is what is judged and kept.
                with average.in_place() if average else nullcontext():
                    rows = step_of.micro_batch
                    lost = evaluation_loss(plain, token_loss, eval_set, collate, rows, processes)
                    value = accelerator.reduce(lost).item() / eval_set.supervision(range(len(eval_set)))
                    metrics.evaluated(done, eval_loss=value)
                    progress = progress.judged(done, value)
                    if progress.best_step == done:
                        keep(plain, loaded, family, output, record, done, processes)
                train_mode(plain)
            enough = evaluate and 0 < patience <= progress.stale
            progress = metrics.noted(dataclasses.replace(progress, step=done))
            if processes.saves and (save or stop or enough):
                save_state(output / "last", plain, optimiser, progress, average, budget, writes=main)
            if enough:
                log.say(f"stopped early: {progress.stale} evaluations without a better one")
                break
            if stop and done < total:
                if main:
                    write_run(output, dataclasses.replace(record, state="stopped"))
                log.say(f"stopped after step {done} of {total}; the same command goes on from there")
                raise KeyboardInterrupt

    # Save: the adapter or model of the best evaluation is there already; without evaluation it is the last.
    figures = {"steps": float(progress.step), "loss": progress.loss, "trainable": float(count)}
    if held_out:
        figures |= {"eval_loss": progress.best, "best_step": float(progress.best_step)}
    timings = {"prepare": prepared, "train": progress.seconds}
    record = dataclasses.replace(record, state="finished", metrics=figures, timings=timings)
    token_loss.close()
    with average.in_place() if average else nullcontext():
        if not held_out:
            keep(plain, loaded, family, output, record, progress.step, processes)
        conclude(
            Loaded(plain, loaded.processor), family, output, record, held_out, processes, log,
            answers=config.evaluate.answers,
            last_is_kept=not held_out or progress.best_step == progress.step,
        )  # fmt: skip
    accelerator.end_training()
    return Run(folder=output, metrics=figures)


def check(config: Config) -> None:
    """Raise one `ConfigError` with every setting that is out of range."""
    positive = above_zero(config, "lr", "epochs", "max_steps", "batch_size", "accumulate")
    check_settings(config, [*positive, *not_negative(config, "save_every")])

"""Fine-tune any family on paired pictures, sounds and text: LoRA or full, per tower.

    triptych run sft model=nano-omni data=handwriting output=runs/handwriting max_steps=200

The folder `output` gets run.json, metrics.jsonl, adapter/ (or model/), last/ (to go on from) and a card.
Several processes: `accelerate launch --num_processes 2 -m apps.cli run sft ...`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from studio import families
from studio.adapter_files import write_note
from studio.adapters import save_adapter
from studio.assets import find_data, find_model
from studio.augment._steps import check_steps, fingerprint, read_steps
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data import load_data
from studio.data.findings import check_before_training
from studio.data.lengths import rules as length_rules
from studio.data.provenance import provenance
from studio.errors import ConfigError, unknown
from studio.families._gauge import Gauge
from studio.families._save import save_pretrained
from studio.files import atomic_folder
from studio.log import Log, QuietLog
from studio.runs import Record, begin_run, find_same, new_record, write_card, write_run
from studio.training.batches import epoch_batches, micro_batches, steps_per_epoch
from studio.training.encoding import encode_samples, open_encoded
from studio.training.epochs import Epochs
from studio.training.evaluation import evaluation_loss
from studio.training.interrupt import Interrupt
from studio.training.loss import Precision, TokenLoss, compute_type
from studio.training.save import Progress, load_state, read_progress, save_state
from studio.training.schedule import Schedule, factor, warmup_steps
from studio.training.seed import set_seed
from studio.training.threads import set_threads
from studio.training.towers import choose_trainable, parameter_groups, tower_rules, train_mode
from studio.training.tracking import Metrics, check_tracker
from studio.types import Family, Loaded, Run


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
    method: Literal["lora", "full"] = field(
        default="lora", metadata={"help": "low-rank factors, or all weights"}
    )
    towers: dict[str, Literal["lora", "full", "frozen"]] = field(
        default_factory=dict,
        metadata={
            "help": "rule per tower (towers.vision=lora); the rest: lora on llm only, or full for full"
        },
    )
    r: int = field(default=16, metadata={"help": "rank of LoRA"})
    alpha: float = field(default=32.0, metadata={"help": "strength of LoRA: delta = alpha / r * B A"})
    dropout: float = field(default=0.0, metadata={"help": "dropout in front of LoRA"})
    lr: float = field(default=2e-4, metadata={"help": "peak learning rate"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the data"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    batch_size: int = field(default=8, metadata={"help": "samples in a micro-batch, on each process"})
    accumulate: int = field(default=1, metadata={"help": "micro-batches a step; 8 x 1 does as 2 x 4"})
    warmup: float = field(default=0.05, metadata={"help": "steps of rising rate; below 1 a share of all"})
    schedule: Schedule = field(default="cosine", metadata={"help": "the learning rate after the warm-up"})
    optimiser: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "AdamW: optimiser.weight_decay (0; on matrices only), .clip (1: the gradient's largest "
            "norm; 0 does not clip)"
        },
    )
    seed: int = field(default=0, metadata={"help": "seed of LoRA's start, the order and dropout"})
    eval_every: int = field(default=0, metadata={"help": "steps between evaluations; 0: once an epoch"})
    save_every: int = field(default=100, metadata={"help": "steps between saved states; 0: once an epoch"})
    precision: Precision = field(default="auto", metadata={"help": "auto is bf16 where the device has it"})
    tracker: str | None = field(default=None, metadata={"help": "an accelerate tracker beside metrics.jsonl"})
    resume: bool | None = field(default=None, metadata={"help": "go on from output/last; none: if possible"})


#: What `Config.optimiser` may hold, as it is if it does not.
OPTIMISER = {"weight_decay": 0.0, "clip": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"output": "runs/smoke", "max_steps": 6, "batch_size": 4, "r": 4, "warmup": 2, "lr": 1e-3},
}

#: Settings that do not change what a run computes; with another value it may go on from the same state.
APART = ("output", "save_every", "tracker", "resume")


def run(config: Config, log: Log) -> Run:
    """Fine-tune as configured and return the run; a killed run goes on where it was.

    Raises `TriptychError` for a mistake in settings, model or data, before the first step, and when the loss
    stops being a number. `KeyboardInterrupt` follows Ctrl-C, after the state is saved.
    """
    check(config)
    limits, steps = length_rules(config.length), read_steps(config.augment)
    tuned = OPTIMISER | config.optimiser
    began = time.monotonic()
    base, output = find_model(config.model), config.output
    family = families.detect(base)
    rules = tower_rules(family, config.method, config.towers)
    beside_llm = any(rule != "frozen" for tower, rule in rules.items() if tower != "llm")

    # Processes: accelerate reads from the environment how many there are, and on what device.
    accelerator = Accelerator(
        log_with=check_tracker(config.tracker) if config.tracker else None,
        project_dir=output,
        mixed_precision="no",  # `TokenLoss` switches autocast on
        kwargs_handlers=[
            # A tower that no sample of a batch uses has no gradient in it, and DDP has to look for that.
            DistributedDataParallelKwargs(find_unused_parameters=beside_llm),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # for those that wait while others encode
        ],
    )
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    log = log if main else QuietLog()

    # Seed: the adapter's start depends on it. The number of threads only changes the last digits.
    set_seed(config.seed)
    threads = set_threads()

    # Data: read and hashed before anything is loaded, so that a finished run is known at once.
    train = load_data(find_data(config.data), split="train")
    held_out = load_data(find_data(config.eval_data), split="test") if config.eval_data else []
    check_steps(steps, train)
    origins = {"data": provenance(train)} | ({"eval_data": provenance(held_out)} if held_out else {})
    inputs = {"model": Checkpoint(base).fingerprint()} | {k: told["sha256"] for k, told in origins.items()}
    if steps:
        inputs["augment"] = fingerprint(steps)
    record = new_record("sft", to_dict(config), inputs, apart=APART, processes=world, data=origins)
    old = find_same(output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{output} is finished with these settings and inputs; resume=false trains it again")
        return Run(folder=output, metrics=old.metrics)

    # Check: every row is decoded and encoded now, not in step 900. Processes of one machine share the work;
    # what one of them finds out about a file the others read.
    with accelerator.local_main_process_first():
        check_before_training([*train, *held_out], log)
    dtype = compute_type(config.precision, accelerator.device)
    loaded = family.load(base, dtype=dtype if config.method == "lora" else torch.float32)
    gauge = Gauge(folder=base, family=family, processor=loaded.processor, config=loaded.model.config)
    shards = output / "encoded"
    share = (accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    for name, rows in (("encoding", train), ("encoding held-out", held_out)):
        encode_samples(gauge, rows, shards, log, rules=limits, name=name, part=share)
    accelerator.wait_for_everyone()
    if main:
        begin_run(output, record, fresh=old is None)
    accelerator.wait_for_everyone()
    progress = read_progress(output / "last") or Progress()
    data, eval_set = (open_encoded(gauge, rows, shards, limits) for rows in (train, held_out))
    for name, encoded in (("length", data), ("length, held-out", eval_set)):
        if encoded.fitted:
            log.say(f"{name}: " + ", ".join(f"{count} rows {step}" for step, count in encoded.fitted.items()))
    epochs = Epochs(
        data, gauge, train, shards, log, steps=steps, seed=config.seed, rules=limits,
        part=share, wait=accelerator.wait_for_everyone,
    )  # fmt: skip
    collate = partial(family.collate, loaded.processor, side="right")

    # Model: on its device before LoRA is put on it, or the factors would stay behind.
    plain = choose_trainable(
        loaded.model.to(accelerator.device), family, rules,
        r=config.r, alpha=config.alpha, dropout=config.dropout, seed=config.seed,
    )  # fmt: skip
    learning = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    count, everything = (sum(p.numel() for p in group) for group in (learning, plain.parameters()))
    optimiser: Any = torch.optim.AdamW(
        parameter_groups(plain, tuned["weight_decay"]), lr=config.lr, fused=True
    )
    if progress.step:
        load_state(output / "last", plain, optimiser)
    token_loss = TokenLoss(plain, accelerator.device, dtype)
    model, optimiser = accelerator.prepare(plain, optimiser)
    learns = ", ".join(f"{tower} {rule}" for tower, rule in rules.items())
    log.say(f"{family.name}: {count:,} of {everything:,} parameters learn ({learns}); {threads} threads")

    # Loop. What a step does is a function of the seed and the step alone; that makes resuming exact.
    size = config.batch_size * config.accumulate * world
    per_epoch = steps_per_epoch(len(data), size)
    total = config.max_steps or max(1, math.ceil(config.epochs * per_epoch))
    warmup = warmup_steps(config.warmup, total)
    eval_every, save_every = config.eval_every or per_epoch, config.save_every or per_epoch
    if progress.step:
        log.say(f"going on after step {progress.step} of {total}")
    log.stage("training", total - progress.step, "steps")
    prepared = time.monotonic() - began
    metrics = Metrics(output, accelerator, log, record.config, step=progress.step, seconds=progress.seconds)
    batches: list[list[int]] = []
    train_mode(plain)
    with Interrupt() as interrupt:
        for step in range(progress.step, total):
            if not batches or step % per_epoch == 0:
                data = epochs.of(step // per_epoch)
                batches = epoch_batches(data.lengths, size, config.seed, step // per_epoch)
                if steps:
                    log.stage("training", total - step, "steps")
            batch = batches[step % per_epoch]
            set_seed(config.seed, "step", step, rank)
            lr = config.lr * factor(step, total, warmup, config.schedule)
            for group in optimiser.param_groups:
                group["lr"] = lr

            # One denominator for the whole step: the sum over micro-batches and processes is then the mean
            # over supervised tokens. DDP averages gradients over processes, hence times `world`.
            supervision = data.supervision(batch) or 1.0
            loss = torch.zeros((), device=accelerator.device)
            parts = micro_batches(batch, data.lengths, config.batch_size, rank, world)
            for number, part in enumerate(parts, 1):
                with accelerator.no_sync(model) if number < len(parts) else nullcontext():
                    # A process without a sample takes one at weight 0: all must join the exchange.
                    micro = collate([data[index] for index in part or batch[:1]])
                    weights = [data.weights[index] for index in part] or [0.0]
                    share_of_loss = token_loss(model, micro, weights) / supervision
                    accelerator.backward(share_of_loss * world)
                    loss += share_of_loss.detach()
            norm = accelerator.clip_grad_norm_(learning, tuned["clip"] or math.inf)
            optimiser.step()
            optimiser.zero_grad()

            done = step + 1
            evaluate = bool(held_out) and (done % eval_every == 0 or done == total)
            save = done % save_every == 0 or done == total
            stop = metrics.step(done, loss, norm, len(batch), lr, due=evaluate or save, stop=interrupt.asked)
            if evaluate:
                lost = evaluation_loss(plain, token_loss, eval_set, collate, config.batch_size, (rank, world))
                value = accelerator.reduce(lost).item() / eval_set.supervision(range(len(eval_set)))
                metrics.evaluated(done, eval_loss=value)
                train_mode(plain)
                if progress.best is None or value < progress.best:
                    progress = dataclasses.replace(progress, best=value, best_step=done)
                    if main:
                        keep(plain, loaded, family, config, record, done)
            progress = dataclasses.replace(progress, step=done, loss=metrics.loss, seconds=metrics.seconds)
            if main and (save or stop):
                save_state(output / "last", plain, optimiser, progress)
            if stop and done < total:
                if main:
                    write_run(output, dataclasses.replace(record, state="stopped"))
                log.say(f"stopped after step {done} of {total}; the same command goes on from there")
                raise KeyboardInterrupt

    # Save: the adapter or model of the best evaluation is there already; without evaluation it is the last.
    figures = {"steps": float(total), "loss": progress.loss, "trainable": float(count)}
    if held_out:
        figures |= {"eval_loss": progress.best, "best_step": float(progress.best_step)}
    timings = {"prepare": prepared, "train": progress.seconds}
    record = dataclasses.replace(record, state="finished", metrics=figures, timings=timings)
    if main:
        if not held_out:
            keep(plain, loaded, family, config, record, total)
        card(config, record, family)
        shutil.rmtree(shards, ignore_errors=True)
        write_run(output, record)
    accelerator.end_training()
    return Run(folder=output, metrics=figures)


def check(config: Config) -> None:
    """Raise one `ConfigError` with every setting that is out of range."""
    positive = ("r", "alpha", "lr", "epochs", "max_steps", "batch_size", "accumulate")
    not_negative = ("warmup", "eval_every", "save_every")
    wrong = [
        f"{name} must be {'more than' if limit else 'at least'} 0, not {value}"
        for names, limit in ((positive, True), (not_negative, False))
        for name in names
        if (value := getattr(config, name)) is not None and (value < 0 or (limit and value == 0))
    ]
    for name, value in config.optimiser.items():
        if name not in OPTIMISER:
            wrong.append(unknown("setting of optimiser", name, OPTIMISER))
        elif value < 0:
            wrong.append(f"optimiser.{name} must be at least 0, not {value}")
    if not 0 <= config.dropout < 1:
        wrong.append(f"dropout must be at least 0 and below 1, not {config.dropout}")
    if wrong:
        raise ConfigError("; ".join(wrong))


def keep(model: Any, loaded: Loaded, family: Family, config: Config, record: Record, step: int) -> None:
    """Write adapter/, or model/ with its processor: what the run is for."""
    about: dict[str, Any] = {
        "base": config.model,
        "base_fingerprint": record.inputs["model"],
        "family": family.name,
    }
    note = {"run": record.fingerprint, "step": step, "data": record.data["data"]}
    if config.method == "lora":
        save_adapter(model, config.output / "adapter", note=note, **about)
        return
    with atomic_folder(config.output / "model") as folder:
        save_pretrained(Loaded(model, loaded.processor), folder)
        write_note(folder, note=note, **about)


def card(config: Config, record: Record, family: Family) -> None:
    """Write the run's card."""
    lora = config.method == "lora"
    variant = f"{config.model}+{config.output}/adapter" if lora else f"{config.output}/model"
    write_card(
        config.output,
        f"{config.output.name}: {family.name} fine-tuned",
        record,
        summary=f"{'A LoRA adapter for' if lora else 'A full fine-tune of'} `{config.model}` (family "
        f"{family.name}), trained by the recipe `sft` on `{config.data}`.",
        use=f"triptych eval {variant} --data {config.eval_data or config.data}",
        tags=("triptych", family.name, config.method),
    )

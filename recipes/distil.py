"""Merge experts by what they do: each layer, then the whole model, learns to answer as the experts answer.

    triptych run distil experts.textiles=runs/textiles experts.commands=runs/commands output=runs/one
    triptych eval nano-omni+runs/one/adapter --data textiles --data commands

Other methods see weights alone, and where experts' deltas disturb each other they keep little. This one asks
for some rows of each domain, and takes minutes. First each linear layer is solved in closed form, in the
order in which the model runs them; then some steps of distillation. The folder `output` gets adapter/ (full
rank, with the lock file and the card of a merge), merged.json and run.json. A finished run is known again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from mergers import declare
from recipes._distil import distilled, write_deltas
from recipes._layerwise import count_units
from recipes._search_experts import find_experts
from studio import families
from studio.adapters import read_adapter
from studio.assets import find_data, find_model
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data import check_media, load_data
from studio.data.identity import data_hash
from studio.errors import ConfigError, DataError
from studio.files import atomic_write
from studio.forced import Forced
from studio.log import Log
from studio.mixed import refusal
from studio.overlay import overlaid
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.threads import set_threads
from studio.types import Run, Sample


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whose abilities go into one model, and what rows show them."""

    model: str = field(default="nano-omni", metadata={"help": "the base that all experts stand on"})
    experts: dict[str, str | None] = field(
        default_factory=dict,
        metadata={"help": "domain: adapter or run folder; none: trained here as `training` says"},
    )
    training: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of sft for experts that are trained here"}
    )
    data: dict[str, str] = field(
        default_factory=dict, metadata={"help": "domain: rows; the shipped ones of that name if left out"}
    )
    rows: int = field(default=128, metadata={"help": "rows of each domain that are looked at"})
    held_out: int = field(
        default=32, metadata={"help": "further rows of each domain that tell what was kept"}
    )
    split: str = field(default="train", metadata={"help": "the split that the rows are drawn from"})
    weight: dict[str, float] = field(
        default_factory=dict, metadata={"help": "domain: how much it counts; 1 if left out"}
    )
    ridge: float = field(default=1e-2, metadata={"help": "pull towards the mean of the deltas, above 0"})
    repair: float = field(
        default=1.0, metadata={"help": "share of what layers before missed that a layer makes up, 0 to 1"}
    )
    answer_weight: float = field(default=3.0, metadata={"help": "how often a token of an answer counts"})
    balance: float = field(
        default=0.5, metadata={"help": "0: domains count by their outputs, 1: by what the experts changed"}
    )
    polish: int = field(default=60, metadata={"help": "steps of distillation at the end; 0 for none"})
    lr: float = field(default=3e-4, metadata={"help": "highest learning rate of these steps"})
    batch_size: int = field(default=8, metadata={"help": "rows of one domain that are computed together"})
    device: str = field(default="cpu", metadata={"help": "where the model runs, as cpu or cuda"})
    threads: int | None = field(default=None, metadata={"help": "torch threads; none: the physical cores"})
    seed: int = field(default=0, metadata={"help": "seed of the rows that are drawn and of their order"})
    output: Path = field(default=Path("runs/distil"), metadata={"help": "the run's folder"})
    resume: bool | None = field(
        default=None, metadata={"help": "none: a finished run stands; false: make it again"}
    )


APART = ("output", "resume", "threads", "device")
#: What decides on the result beside the experts and their rows.
MADE_WITH = ("weight", "ridge", "repair", "answer_weight", "balance", "polish", "lr", "batch_size")
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "output": "runs/distil-smoke",
        "experts": {"textiles": None, "handwriting": None},
        "training": {
            "max_steps": 3,
            "batch_size": 4,
            "lr": 3e-3,
            "adapter": {"r": 4},
            "speed": {"tower_cache": False},
        },
        "rows": 4,
        "held_out": 2,
        "polish": 2,
    },
    "quick": {"rows": 64, "polish": 30},
    "thorough": {"rows": 480, "polish": 120},
}


def run(config: Config, log: Log) -> Run:
    """Look at the experts' rows, solve the layers, polish the whole, and write the adapter."""
    began = time.monotonic()
    check(config)
    set_threads(config.threads)
    base = find_model(config.model)
    rows, held = {}, {}
    for domain in config.experts:
        drawn = draw(domain, config)
        rows[domain], held[domain] = drawn[: config.rows], drawn[config.rows :]
    check_media([sample for samples in (*rows.values(), *held.values()) for sample in samples], log)
    names = {domain: config.data.get(domain, domain) for domain in config.experts}
    folders = find_experts(config, base, names, log)
    for domain, folder in folders.items():
        if why := refusal(read_adapter(folder)):
            raise ConfigError(f"experts.{domain}: {why}; distil takes LoRA on linear layers")
    weights = {domain: Checkpoint(folder).fingerprint() for domain, folder in folders.items()}
    inputs = {"model": Checkpoint(base).fingerprint(), **{f"expert {d}": w for d, w in weights.items()}}
    inputs |= {f"data {domain}": data_hash(samples) for domain, samples in rows.items()}
    record = new_record("distil", to_dict(config), inputs, apart=APART)
    old = find_same(config.output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{config.output} is finished with these settings and inputs; resume=false makes it again")
        return Run(folder=config.output, metrics=old.metrics)
    begin_run(config.output, record, fresh=True)

    # The base in memory, and the rows as it takes them.
    family = families.detect(base)
    loaded = family.load(base, dtype=torch.float32, device=config.device)
    loaded.model.eval()
    if getattr(loaded.model.config, "is_encoder_decoder", False):
        raise ConfigError(f"{config.model} has an encoder and a decoder; distil takes models without")
    experts = {domain: dict(read_adapter(folder).modules) for domain, folder in folders.items()}
    batches = {
        domain: [batch for _, batch in Forced(loaded, family, samples, batch_size=config.batch_size).batches]
        for domain, samples in rows.items()
    }

    # The merge: layer by layer, then the whole.
    log.stage("layers, then steps", count_units(loaded.model, experts) + config.polish, "parts")
    deltas = distilled(
        loaded.model, experts, batches, weight=config.weight, ridge=config.ridge, repair=config.repair,
        answer_weight=config.answer_weight, balance=config.balance, polish=config.polish, lr=config.lr,
        seed=config.seed, advance=log.advance,
    )  # fmt: skip
    write_deltas(
        config.output / "adapter", deltas, model=config.model, base=base, family=family.name,
        note={"made_by": "distil"},
    )  # fmt: skip

    # What was kept, on rows that nothing was solved on.
    figures: dict[str, float] = {}
    for domain, samples in held.items():
        if samples:
            asked = Forced(loaded, family, samples, batch_size=config.batch_size)
            own = {path: factors.delta() for path, factors in experts[domain].items()}
            for name, these in (("expert", own), ("merged", deltas)):
                with overlaid(loaded.model, these):
                    figures[f"{domain}.{name}"] = sum(row.exact for row in asked.ask()) / len(samples)
    atomic_write(config.output / "merged.json", json.dumps(figures, indent=1) + "\n")
    kept = [
        f"{domain}: {100 * figures[f'{domain}.merged']:.0f} % of {len(samples)} held-out rows right, "
        f"the expert {100 * figures[f'{domain}.expert']:.0f} %."
        for domain, samples in held.items()
        if samples
    ]
    declare(
        config.output / "adapter",
        {
            "method": "distil", "base": str(base),
            "models": [{"path": str(folder)} for folder in folders.values()],
            "settings": {name: getattr(config, name) for name in ("rows", *MADE_WITH, "seed")},
        },
        f"triptych run distil --config {config.output} output=FOLDER", kept,
    )  # fmt: skip
    for line in kept:
        log.say(line)
    timings = {"all": time.monotonic() - began}
    write_run(config.output, replace(record, state="finished", metrics=figures, timings=timings))
    return Run(folder=config.output, metrics=figures)


def check(config: Config) -> None:
    """Raise `ConfigError` for settings that cannot be meant, all in one sentence."""
    wrong = [] if len(config.experts) > 1 else ["experts must name at least two domains"]
    wrong += [f"{name} must be above 0" for name in ("rows", "ridge", "lr", "batch_size", "answer_weight")
              if getattr(config, name) <= 0]  # fmt: skip
    wrong += [f"{name} must lie in [0, 1]" for name in ("repair", "balance")
              if not 0 <= getattr(config, name) <= 1]  # fmt: skip
    wrong += [f"{name} must not be negative" for name in ("polish", "held_out") if getattr(config, name) < 0]
    wrong += [f"{key}.{domain}: there is no expert for '{domain}'"
              for key in ("weight", "data") for domain in getattr(config, key)
              if domain not in config.experts]  # fmt: skip
    wrong += [f"weight.{domain} must be above 0" for domain, value in config.weight.items() if value <= 0]
    if wrong:
        raise ConfigError("; ".join(wrong))


def draw(domain: str, config: Config) -> list[Sample]:
    """Return rows of a domain with references, in a random order.

    Raises:
        DataError: a row without a reference, or no row at all.
    """
    if config.split == "test":
        raise ConfigError("split is 'test', and a test set is never learned from")
    samples = list(load_data(find_data(config.data.get(domain, domain)), split=config.split))
    if not samples:
        raise DataError(f"domain '{domain}' holds no rows")
    for sample in samples:
        if not sample.answer:
            raise DataError(f"{sample.where}: no answer to look at; the last turn must be 'assistant'")
    count = min(config.rows + config.held_out, len(samples))
    return Random(f"{config.seed}/{domain}").sample(samples, count)

"""Gather what a model's own data says of its weights, for merging by regmean or fisher: few samples suffice.

    triptych run statistics model=runs/handwriting data=handwriting kind=gram output=runs/told

The folder `output` gets gram.safetensors or fisher.safetensors and run.json; both kinds fit into one. In a
merge file it stands beside the model: {path: runs/handwriting/adapter, statistics: runs/told}.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from studio import families
from studio.adapters import is_adapter, load_adapter, read_adapter
from studio.assets import find_data, find_model
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.data import load_data
from studio.data.identity import data_hash
from studio.errors import CheckpointError, ConfigError
from studio.log import Log
from studio.runs import new_record, write_run
from studio.statistics import collect, write_statistics
from studio.training.threads import set_threads
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whose statistics, from what data."""

    model: str = field(default="nano-omni", metadata={"help": "model, adapter, or the run that made it"})
    data: str = field(default="handwriting", metadata={"help": "rows: .jsonl, folder, shipped name"})
    output: Path = field(default=Path("runs/statistics"), metadata={"help": "folder for the file"})
    kind: Literal["gram", "fisher"] = field(
        default="gram", metadata={"help": "gram for regmean, fisher for fisher"}
    )
    samples: int = field(default=64, metadata={"help": "rows to take, spread over the data"})
    device: str = field(default="cpu", metadata={"help": "where the model runs, as cpu or cuda"})
    threads: int | None = field(default=None, metadata={"help": "torch threads; none: the physical cores"})


PRESETS: dict[str, dict[str, Any]] = {"smoke": {"samples": 2, "output": "runs/statistics-smoke"}}


def run(config: Config, log: Log) -> Run:
    """Load the model with its adapter folded in, run the samples, and write the file."""
    if config.samples < 1:
        raise ConfigError(f"samples must be more than 0, not {config.samples}")
    began = time.monotonic()
    set_threads(config.threads)

    # Model: the folder of a run stands for what it made; an adapter's note says what it belongs to.
    folder = find_model(config.model)
    folder = next((f for f in (folder, folder / "adapter", folder / "model") if _is_model(f)), folder)
    adapter = read_adapter(folder) if is_adapter(folder) else None
    if adapter is not None and not adapter.base:
        raise CheckpointError(f"{folder} does not say which model it adapts")
    base = find_model(adapter.base) if adapter is not None else folder
    family = families.detect(base)
    loaded = family.load(base, dtype=torch.float32, device=config.device)
    if adapter is not None:
        loaded = loaded._replace(model=load_adapter(loaded.model, folder).merge_and_unload().eval())

    # Data: spread over all rows, which may be sorted by class.
    rows = load_data(find_data(config.data), split="train")
    every = max(1, len(rows) // config.samples)
    chosen = list(islice(rows[::every], config.samples))

    log.stage(f"{config.kind} statistics", len(chosen), "samples")
    tensors = collect(loaded, family, chosen, Checkpoint(base), config.kind, log.advance)
    file = config.output / f"{config.kind}.safetensors"
    weights = Checkpoint(folder).fingerprint()
    write_statistics(file, tensors, kind=config.kind, weights=weights, samples=len(chosen))

    record = new_record("statistics", to_dict(config), {"model": weights, "data": data_hash(chosen)})
    figures = {"samples": float(len(chosen)), "tensors": float(len(tensors))}
    timings = {"all": time.monotonic() - began}
    write_run(config.output, replace(record, state="finished", metrics=figures, timings=timings))
    log.say(f"{len(tensors)} tensors -> {file}")
    return Run(folder=config.output, metrics=figures)


def _is_model(folder: Path) -> bool:
    return is_adapter(folder) or (folder / "config.json").is_file()

"""Render the demo's four domains: handwriting, textiles, commands and helpdesk, each with train and test.

What is shipped under assets/data was made by this recipe. Needs scikit-learn for the handwriting and
espeak-ng for the voices (extra and Debian package of those names).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from studio.config import to_dict
from studio.files import atomic_write
from studio.log import Log
from studio.runs import new_record, write_run
from studio.synthetic import domains
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which domains, how many samples, where to."""

    output: Path = field(
        default=Path("runs/domains"), metadata={"help": "folder that gets one folder a domain"}
    )
    names: tuple[str, ...] = field(default=domains.NAMES, metadata={"help": "domains to render"})
    train: int = field(default=1200, metadata={"help": "training samples a domain"})
    test: int = field(default=250, metadata={"help": "test samples a domain"})
    seed: int = field(
        default=0, metadata={"help": "seed of the content; Ogg files differ in their stream number"}
    )


PRESETS = {"smoke": {"names": ("textiles",), "train": 8, "test": 4, "output": "runs/domains-smoke"}}


def run(config: Config, log: Log) -> Run:
    """Render every domain's train and test split and write their JSONL files."""
    counts = {}
    for name in config.names:
        for split, count in (("train", config.train), ("test", config.test)):
            log.stage(f"{name} {split}", count)
            made = domains.make(config.output / name, name, split, count, config.seed, lambda: log.advance(1))
            lines = "".join(json.dumps(row) + "\n" for row in made)
            atomic_write(config.output / name / f"{split}.jsonl", lines)
            counts[f"{name}/{split}"] = float(len(made))
    write_run(
        config.output, replace(new_record("domains", to_dict(config), {}), state="finished", metrics=counts)
    )
    return Run(folder=config.output, metrics=counts)

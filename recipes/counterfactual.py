"""Render sets of rows that differ in one thing: the same cloth in other colours, a command in other voices.

    triptych run counterfactual domain=commands vary=accent count=60 output=runs/accents
    triptych eval nano-omni+runs/commands/adapter --data runs/accents --out runs/accents-eval
    triptych groups runs/accents-eval --pairs pair --by accent

Rows carry the set in the group `pair` and what differs in the group that is varied. Speech needs espeak-ng
(Debian package of that name).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from studio.config import to_dict
from studio.errors import ConfigError
from studio.files import atomic_write
from studio.log import Log
from studio.runs import new_record, write_run
from studio.synthetic import counterfactuals
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which domain, what differs, and how many sets."""

    output: Path = field(
        default=Path("runs/counterfactual"), metadata={"help": "folder that gets the rows and their media"}
    )
    domain: str = field(default="textiles", metadata={"help": "textiles, commands or helpdesk"})
    vary: str = field(
        default="", metadata={"help": "colour, accent or speaker; by default the domain's first"}
    )
    sides: tuple[str, ...] = field(
        default=(), metadata={"help": "values to compare, red,black for instance; by default all"}
    )
    count: int = field(default=50, metadata={"help": "sets; each has one row a side"})
    split: Literal["train", "test"] = field(default="test", metadata={"help": "name of the rows' file"})
    seed: int = field(
        default=0, metadata={"help": "seed of the content; Ogg files differ in their stream number"}
    )


PRESETS = {"smoke": {"count": 3, "sides": ("red", "black"), "output": "runs/counterfactual-smoke"}}


def run(config: Config, log: Log) -> Run:
    """Render the sets and write their JSONL file."""
    vary, sides = counterfactuals.sides_of(config.domain, config.vary, config.sides)
    if config.count < 1:
        raise ConfigError(f"count must be at least 1, not {config.count}")
    log.stage(f"{config.domain} by {vary}", config.count * len(sides))
    rows = counterfactuals.make(
        config.output, config.domain, vary, sides, config.split, config.count, config.seed,
        lambda: log.advance(1),
    )  # fmt: skip
    file = config.output / f"{config.split}.jsonl"
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows))
    counts = {"sets": float(config.count), "rows": float(len(rows))}
    record = new_record("counterfactual", to_dict(config), {})
    write_run(config.output, replace(record, state="finished", metrics=counts))
    log.say(f"{len(rows)} rows in {file}: {config.count} pairs by {vary} ({', '.join(sides)})")
    return Run(folder=config.output, metrics=counts)

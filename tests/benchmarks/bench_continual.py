"""Forgetting, before and after: an adapter learns one domain, goes on with another, and is asked about both.

    python tests/benchmarks/bench_continual.py [--first textiles] [--then commands] [--steps 200] [--rows 250]

One adapter on every tower of nano-omni learns the first domain. From there it goes on with the second one
five times: naively, with replay (a fifth of every epoch are rows of the first domain), with an l2 anchor,
with elastic weight consolidation (both at the strength of ``--strength``), and with replay and elastic weight
consolidation together. All have the same steps, rate, batch, seed and data. What is printed is the exact
match on the held-out rows of both domains, in percent with 95 % Wilson intervals, and how much of the first
domain was lost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from apps.evaluate import evaluate
from recipes import sft
from studio.assets import find_data, find_model
from studio.config import from_dict
from studio.data import load_data
from studio.log import PlainLog
from studio.training.threads import set_threads
from studio.variants import Engine

TOWERS = dict.fromkeys(("llm", "vision", "audio", "projector"), "lora")


def settings(steps: int, lr: float) -> dict[str, Any]:
    """Return what all runs have in common: the demo's expert, with LoRA on every tower."""
    return {
        "model": "nano-omni", "towers": TOWERS, "lr": lr, "batch_size": 16, "max_steps": steps,
        "optimiser": {"warmup": 0.1}, "save_every": 10 * steps,
    }  # fmt: skip


def ways(old: str, strength: float) -> dict[str, dict[str, Any]]:
    """Return name -> the settings of `continual` for every way of going on."""
    ewc = {"replay": old, "anchor": "ewc", "strength": strength}
    return {
        "naive": {},
        "replay": {"replay": old, "replay_share": 0.2},
        "l2": {"anchor": "l2", "strength": strength},
        # The old rows weigh the weights; as good as none of them is replayed.
        "ewc": {**ewc, "replay_share": 1e-9},
        "replay + ewc": {**ewc, "replay_share": 0.2},
    }


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", default="textiles")
    parser.add_argument("--then", default="commands")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3, help="of the first run; the second has a third")
    parser.add_argument("--strength", type=float, default=0.1)
    parser.add_argument("--rows", type=int, default=250, help="held-out rows of each domain")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are otherwise thrown away")
    options = parser.parse_args()
    set_threads()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        log = PlainLog(every=20)
        seconds: dict[str, float] = {}

        def train(name: str, **more: Any) -> Path:
            began = time.monotonic()
            config = from_dict(sft.Config, {"output": str(folder / name.replace(" ", "")), **more})
            done = sft.run(config, log)
            seconds[name] = time.monotonic() - began
            return done.folder

        first = train("first", data=options.first, **settings(options.steps, options.lr))
        runs: dict[str, Path] = {"before": first}
        for name, continual in ways(options.first, options.strength).items():
            runs[name] = train(
                name, data=options.then, adapter={"start": str(first)}, continual=continual,
                **settings(options.steps, options.lr / 3),
            )  # fmt: skip
        engine = Engine(find_model("nano-omni"), {name: run / "adapter" for name, run in runs.items()})
        data = {
            domain: load_data(find_data(domain), split="test")[: options.rows]
            for domain in (options.first, options.then)
        }
        found = evaluate(engine, data, ["exact_match"], log, batch_size=32)
    tell(found, options.first, options.then, seconds)


def tell(found: dict[str, Any], first: str, then: str, seconds: dict[str, float]) -> None:
    """Print the table, and the same as JSON."""
    before = found[first]["before"]["value"]
    print(f"\n| way | {first} (old) | {then} (new) | forgotten of {first} | seconds |\n|---|---|---|---|---|")
    for name in found[first]:
        cells = [_cell(found[domain][name]) for domain in (first, then)]
        lost = 100 * (before - found[first][name]["value"])
        print(f"| {name} | {' | '.join(cells)} | {lost:.1f} | {seconds.get(name, seconds['first']):.0f} |")
    print(f"\nn = {found[first]['before']['n']} each; exact match in percent, 95 % Wilson intervals")
    kept = ("value", "n", "ci")
    told = {
        domain: {name: {key: cell[key] for key in kept} for name, cell in row.items()}
        for domain, row in found.items()
    }
    print(json.dumps(told))


def _cell(cell: dict[str, Any]) -> str:
    low, high = cell["ci"]
    return f"{100 * cell['value']:.1f} ({100 * low:.0f}-{100 * high:.0f})"


if __name__ == "__main__":
    main()

"""Forgetting, before and after: an adapter learns one domain, goes on with another, and is asked about both.

    python tests/benchmarks/bench_continual.py [--first textiles] [--then handwriting] [--steps 200]
    [--rows 150] [--l2 0.1] [--ewc 0.3] [--ways plain,replay] [--seed 0] [--keep FOLDER]

One adapter of nano-omni learns the first domain, with LoRA on the language model, the projector and the tower
that the data need. From there it goes on with the second domain in several ways, each in a process with one
thread, as many at a time as ``--workers``: plainly, with replay (a fifth of every epoch are rows of the first
domain), with an l2 anchor, with elastic weight consolidation (at the strengths of ``--l2`` and ``--ewc``),
and with replay and elastic weight consolidation together. All have the same steps, rate, batch, seed and
data. What is printed is the exact match on the held-out rows of both domains, in percent with 95 % Wilson
intervals, and how much of the first domain was lost. Runs in the folder of ``--keep`` that are finished are
not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from apps.evaluate import evaluate
from studio.assets import find_data, find_model
from studio.data import load_data
from studio.log import PlainLog
from studio.training.threads import set_threads
from studio.variants import Engine

ROOT = Path(__file__).resolve().parents[2]
#: What a tower must learn for rows of a domain; the others stay frozen, and are run once for each medium.
TOWER = {"commands": ["audio"], "helpdesk": ["vision", "audio"]}
#: Weighs the weights by old rows, of which as good as none is replayed.
NONE = 1e-9


def settings(options: argparse.Namespace, lr: float) -> list[str]:
    """Return what all runs have in common: the demo's expert."""
    towers = {"llm", "projector"}
    for domain in (options.first, options.then):
        towers |= set(TOWER.get(domain, ["vision"]))
    return [
        "model=nano-omni", f"lr={lr}", "batch_size=16", f"max_steps={options.steps}", "optimiser.warmup=0.1",
        f"save_every={10 * options.steps}", f"seed={options.seed}",
        *(f"towers.{tower}=lora" for tower in sorted(towers)),
    ]  # fmt: skip


def ways(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return name -> the settings of `continual` for every way of going on."""
    old, share = f"continual.replay={options.first}", "continual.replay_share"
    found: dict[str, list[str]] = {"plain": [], "replay": [old, f"{share}=0.2"]}
    for strength in options.l2:
        found[f"l2 {strength:g}"] = ["continual.anchor=l2", f"continual.strength={strength}"]
    for strength in options.ewc:
        ewc = [old, "continual.anchor=ewc", f"continual.strength={strength}"]
        found[f"ewc {strength:g}"] = [*ewc, f"{share}={NONE}"]
        found[f"replay + ewc {strength:g}"] = [*ewc, f"{share}=0.2"]
    return {name: given for name, given in found.items() if not options.ways or name in options.ways}


def train(folder: Path, given: list[str]) -> float:
    """Train in a process of its own, and return the seconds it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "apps.cli", "run", "sft", f"output={folder}", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    seconds = time.monotonic() - began
    print(f"{folder.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return seconds


def numbers(text: str) -> list[float]:
    """Return the numbers in ``0.1,1``; none in an empty text."""
    return [float(part) for part in text.split(",") if part]


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", default="textiles")
    parser.add_argument("--then", default="handwriting")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3, help="of the first run; the second has a third")
    parser.add_argument("--l2", type=numbers, default=[0.1], help="strengths of the l2 anchor")
    parser.add_argument("--ewc", type=numbers, default=[0.3], help="strengths of ewc")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=[])
    parser.add_argument("--rows", type=int, default=150, help="held-out rows of each domain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are otherwise thrown away")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        runs = {"before": folder / "before"}
        seconds = {"before": train(runs["before"], [f"data={options.first}", *settings(options, options.lr)])}
        later = [
            f"data={options.then}",
            f"adapter.start={runs['before']}",
            *settings(options, options.lr / 3),
        ]
        with ThreadPoolExecutor(options.workers) as pool:
            waiting = {}
            for name, given in ways(options).items():
                runs[name] = folder / name.replace(" ", "")
                waiting[name] = pool.submit(train, runs[name], [*later, *given])
            seconds |= {name: found.result() for name, found in waiting.items()}
        set_threads()
        engine = Engine(
            find_model("nano-omni"), {"base": None} | {name: run / "adapter" for name, run in runs.items()}
        )
        data = {
            domain: load_data(find_data(domain), split="test")[: options.rows]
            for domain in (options.first, options.then)
        }
        found = evaluate(engine, data, ["exact_match"], PlainLog(every=20), batch_size=32, max_new_tokens=24)
    tell(found, options.first, options.then, seconds)
    print(f"seed {options.seed}, {options.steps} steps of 16 rows; {time.monotonic() - began:.0f} s in all")


def tell(found: dict[str, Any], first: str, then: str, seconds: dict[str, float]) -> None:
    """Print the table, and the same as JSON."""
    before = found[first]["before"]["value"]
    print(f"\n| way | {first} (old) | {then} (new) | forgotten of {first} | seconds |\n|---|---|---|---|---|")
    for name in found[first]:
        cells = [_cell(found[domain][name]) for domain in (first, then)]
        lost = f"{100 * (before - found[first][name]['value']):.1f}" if name in seconds else ""
        took = f"{seconds[name]:.0f}" if name in seconds else ""
        print(f"| {name} | {' | '.join(cells)} | {lost} | {took} |")
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

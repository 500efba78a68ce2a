"""One process with two threads, or two processes with one: which trains faster on the same two cores.

    python tests/benchmarks/bench_processes.py [--data handwriting] [--steps 25] [--runs 2] [--cores 2]
    [--json FILE]

The recipe sft on nano-omni, LoRA on all towers, 16 samples a step, by one process with one thread, by one
with as many threads as there are cores, and by as many processes with one thread (ddp). The ways take turns.
Samples per second are the median over the steps after the first five; the losses must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCH = 16


def train(output: Path, data: str, steps: int, threads: int, processes: int) -> tuple[float, list[float]]:
    """Train, and return samples per second and the losses."""
    towers = [f"towers.{name}=lora" for name in ("vision", "audio", "projector")]
    command = [
        sys.executable, "-m", "apps.cli", "run", "sft", "model=nano-omni", f"data={data}", f"output={output}",
        f"max_steps={steps}", f"batch_size={BATCH // processes}", "lr=1e-3", *towers,
        "--nproc", str(processes),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    return statistics.median(row["samples_per_s"] for row in rows[5:]), [row["loss"] for row in rows]


def main() -> None:
    """Measure, and print a table and its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="handwriting")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = options.cores
    ways = {
        "1 process, 1 thread": (1, 1),
        f"1 process, {cores} threads": (cores, 1),
        f"{cores} processes": (1, cores),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    losses: list[list[float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.runs):
            for at, (way, (threads, processes)) in enumerate(ways.items()):
                output = Path(scratch) / f"{number}-{at}"
                rate, found = train(output, options.data, options.steps, threads, processes)
                rates[way].append(rate)
                losses.append(found)
                print(f"{way:<24} {rate:8.1f} samples/s", file=sys.stderr, flush=True)
    apart = max(abs(a - b) for found in losses for a, b in zip(found, losses[0], strict=True))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    alone = medians["1 process, 1 thread"]
    for way, rate in medians.items():
        print(f"{way:<24} {rate:8.1f} samples/s  {rate / alone:5.2f}x")
    print(f"losses differ by at most {apart:.1e}")
    result = {"data": options.data, "samples_per_s": medians, "losses_apart": apart}
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

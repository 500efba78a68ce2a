"""Resuming: what it costs to go on at three random places of a run, beyond loading the model.

    python tests/benchmarks/bench_resume.py [--rows 2400] [--steps 40] [--seed 0] [--json FILE]

A run of nano-omni on pictures and sounds is killed (SIGKILL) after a step drawn at random from each third of
it, and the same command starts again. *Cost* is the time from the call of the recipe to the end of its first
new step, less the time that loading the model takes by itself in that process; imports that loading needs are
before both. In the end the losses of all steps are compared with those of a run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from PIL import Image as Pictures

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, signal, sys, time
from recipes import sft
from studio.assets import find_model
from studio.config import load
from studio.families import detect
from studio.log import QuietLog

class Clock(QuietLog):
    name, steps = "", 0
    def stage(self, name, total, unit="samples"):
        self.name = name
    def advance(self, n=1, **figures):
        if self.name == "training" and figures.get("samples_per_s"):
            self.steps += n
            if self.steps == n:
                told("first")
            if self.steps == int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)

def told(name):
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"{name} {wall:.3f}\\n{name}_cpu {cpu:.3f}", flush=True)

config = load(sft.Config, overrides=sys.argv[2:])
base = find_model(config.model)
detect(base).load(base)  # with its imports, which the run then finds done
began = time.perf_counter(), time.process_time()
detect(base).load(base)
told("load")
began = time.perf_counter(), time.process_time()
sft.run(config, Clock())
"""


def make_rows(folder: Path, count: int) -> Path:
    """Write rows with a picture or one to two seconds of sound each."""
    draw = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True)
    rows = []
    for i in range(count):
        if i % 2:
            name, kind = f"media/{i}.png", "image"
            Pictures.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name)
        else:
            name, kind = f"media/{i}.wav", "audio"
            wave = draw.normal(0, 0.1, int(16000 * draw.uniform(1, 2))).clip(-1, 1)
            soundfile.write(folder / name, wave.astype(np.float32), 16000)
        parts = [{"type": kind, "path": name}, {"type": "text", "text": f"what is number {i}?"}]
        rows.append({"messages": [{"role": "user", "content": parts}, answer(i)]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def answer(i: int) -> dict[str, str]:
    """Return what the assistant says."""
    return {"role": "assistant", "content": f"it is {i}"}


def start(steps: int, flags: list[str], cache: Path) -> dict[str, float]:
    """Run the recipe in a fresh process that is killed after ``steps`` steps, and return what it printed."""
    environment = {**os.environ, "TRIPTYCH_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, str(steps), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, -9):
        raise SystemExit(done.stderr[-3000:])
    return {name: float(value) for name, value in map(str.split, done.stdout.strip().splitlines())}


def losses(folder: Path) -> list[float]:
    """Return the losses of a run's steps."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def main() -> None:
    """Measure and print one row for each place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the places")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began, told = time.monotonic(), []
    print("| after step | load, s | to the first step, s | cost beyond loading, s | the same in CPU s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_rows(folder / "rows", given.rows)
        settings = {"data": data, "batch_size": 8, "max_steps": given.steps, "save_every": 1}
        flags = [f"{key}={value}" for key, value in settings.items()]
        killed = [*flags, f"output={folder / 'killed'}"]
        draw = Random(given.seed)
        thirds = [round(given.steps * part / 3) for part in range(4)]
        places = [draw.randrange(max(1, low), max(high, low + 2)) for low, high in pairwise(thirds)]
        start(places[0], killed, folder / "cache")
        for place, until in zip(places, [*places[1:], 2 * given.steps], strict=True):
            found = start(until - place, killed, folder / "cache")
            cost, cpu = (found[f"first{unit}"] - found[f"load{unit}"] for unit in ("", "_cpu"))
            told.append({"step": place, "cost": cost, "cost_cpu": cpu, "load": found["load"]})
            print(
                f"| {place} of {given.steps} | {found['load']:.2f} | {found['first']:.2f} | "
                f"{cost:.2f} | {cpu:.2f} |",
                flush=True,
            )
        start(given.steps + 1, [*flags, f"output={folder / 'whole'}"], folder / "cache")
        one, other = losses(folder / "killed"), losses(folder / "whole")
        far = max(abs(a - b) for a, b in zip(one, other, strict=True))
        print(f"\nlosses of {len(one)} steps differ by {far:.1e} at most from those of a run never killed")
        most = max(place["cost"] for place in told)
        print(f"the largest cost is {most:.2f} s; {time.monotonic() - began:.0f} s in all")
        result = {"rows": given.rows, "steps": given.steps, "places": told, "losses_apart": far}
        print(json.dumps(result))
        if given.json:
            given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

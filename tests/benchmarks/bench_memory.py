"""Memory: what `triptych run sft --dry-run` foretells against what the run then takes.

    python tests/benchmarks/bench_memory.py [--steps 4] [--rows 96] [--only NAME] [--json FILE]

Each setting is a fresh process for the dry run, and another one for the run, each with an empty cache: a run
that finds the features of frozen towers there takes less, because it never runs those towers. The run's
figure is VmHWM of its process, as the kernel counts it, from start to end: imports, loading, steps and
saving. *Foretold* is what micro-batches up to half the size say (the line through the last two sizes that
were tried), *dry run* what the two steps took. Models are nano-omni, and random ones of larger shapes; the
rows are some of a domain's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from studio.assets import find_data
from studio.data import load_data
from studio.families import _omni_build

ROOT = Path(__file__).resolve().parents[2]
DRY = (
    "import sys, json, dataclasses; from recipes import sft; from studio.config import load; "
    "from studio.log import QuietLog\n"
    "found = sft.estimate(load(sft.Config, overrides=sys.argv[1:]), QuietLog())\n"
    "print(json.dumps(dataclasses.asdict(found)))"
)
REAL = (
    "import sys, re; from recipes import sft; from studio.config import load; "
    "from studio.log import QuietLog\n"
    "sft.run(load(sft.Config, overrides=sys.argv[1:]), QuietLog())\n"
    "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
)
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {
        "vocabulary": 768, "hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4, "inner": 1408,
        "vision": 384, "vision_layers": 6, "vision_inner": 1024, "audio": 384, "audio_layers": 4,
        "audio_inner": 1536, "tower_heads": 6, "window": 200, "side": 128,
    },
    "deep": {
        "vocabulary": 768, "hidden": 256, "layers": 16, "heads": 4, "kv_heads": 2, "inner": 704,
        "vision": 192, "vision_layers": 6, "vision_inner": 512, "audio": 192, "audio_layers": 8,
        "audio_inner": 768, "tower_heads": 4, "window": 200,
    },
}  # fmt: skip
TRAINED = {"towers.vision": "lora", "towers.audio": "lora", "towers.projector": "lora"}
#: name -> model, data, further settings
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nano, pictures, LoRA, batch 16": ("nano-omni", "handwriting", {"batch_size": 16}),
    "nano, sounds, full, batch 16": ("nano-omni", "commands", {"batch_size": 16, "method": "full"}),
    "nano, sounds, LoRA on all towers, 8 x 2": (
        "nano-omni", "commands", {"batch_size": 8, "accumulate": 2, **TRAINED},
    ),
    "wide, pictures, LoRA on all towers, batch 8": ("wide", "textiles", {"batch_size": 8, **TRAINED}),
    "wide, pictures, LoRA on all towers, batch 8, checkpointing": (
        "wide", "textiles", {"batch_size": 8, "speed.checkpointing": "true", **TRAINED},
    ),
    "deep, sounds, full, batch 8": ("deep", "commands", {"batch_size": 8, "method": "full"}),
    "wide, sounds, LoRA, batch 1": ("wide", "commands", {"batch_size": 1}),
}  # fmt: skip


def some_rows(domain: str, count: int, folder: Path) -> Path:
    """Copy ``count`` rows of a domain into ``folder``: its first, and a tenth with the longest answers."""
    source = find_data(domain)
    samples = load_data(source, split="train")
    longest = sorted(samples[count:], key=lambda sample: -len(sample.answer))[: count // 10]
    chosen = [*samples[: count - len(longest)], *longest]
    made = folder / domain
    shutil.rmtree(made, ignore_errors=True)
    for place in {part.path for sample in chosen for part in (*sample.images, *sample.sounds)}:
        target = made / place.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place, target)
    lines = (source / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (made / "train.jsonl").write_text("\n".join(lines[samples.index(one)] for one in chosen) + "\n", "utf-8")
    return made


def measured(code: str, flags: list[str], cache: Path) -> str:
    """Return the last line that a fresh process prints."""
    environment = {**os.environ, "TRIPTYCH_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Measure and print one row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began, told = time.monotonic(), {}
    print("| setting | run, MB | beyond loading | foretold | off by | dry run | off by | s a step |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape, size in SHAPES.items():
            _omni_build.build(folder / shape, _omni_build.Size(**size), ("the digit 0123456789",), 0)
        for setting, (model, data, more) in SETTINGS.items():
            if given.only not in setting:
                continue
            base = folder / model if model in SHAPES else model
            common = {
                "model": base, "data": some_rows(data, given.rows, folder), "output": folder / setting,
                "max_steps": given.steps, "save_every": given.steps, **more,
            }  # fmt: skip
            flags = [f"{key}={value}" for key, value in common.items()]
            dry = json.loads(measured(DRY, flags, folder / "cache" / setting / "dry"))
            real = int(measured(REAL, flags, folder / "cache" / setting / "run")) / 1024
            peak, foretold = dry["peak"] / 2**20, (dry["foretold"] or dry["peak"]) / 2**20
            loaded = (dry["parts"]["process"] + dry["parts"]["weights"]) / 2**20
            print(
                f"| {setting} | {real:.0f} | {real - loaded:.0f} | {foretold:.0f} | "
                f"{100 * (foretold / real - 1):+.1f} % | {peak:.0f} | {100 * (peak / real - 1):+.1f} % | "
                f"{dry['seconds_a_step']:.2f} |",
                flush=True,
            )
            sizes = {size["rows"]: round(size["peak"] / 2**20) for size in dry["sizes"]}
            told[setting] = {
                "run": real, "foretold": foretold, "dry": peak, "loaded": loaded, "sizes": sizes
            }  # fmt: skip
    off = {
        name: max(abs(row[key] / row["run"] - 1) for key in ("foretold", "dry")) for name, row in told.items()
    }
    within = sum(value <= 0.15 for value in off.values())
    seconds = time.monotonic() - began
    print(f"\n{within} of {len(off)} settings within 15 %, foretold and by the dry run; {seconds:.0f} s")
    print(json.dumps(told))
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

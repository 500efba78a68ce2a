"""A planted gap between two mills, and what weights of rows make of it, by real training of nano-omni.

    python tests/benchmarks/bench_reweight.py --seeds 3

The mill "south" weaves blue cloth and has words of its own for defects; in training it has few rows.
The mill "north" weaves cloth of other colours. Whose cloth it is only the picture says; tests have as many
rows of either. The same recipe learns from the same rows without weights, and with those that `triptych run
curate` writes: `balanced`, and `loss` (by the first run's accuracy on further rows, which nothing else is
measured on). Prints accuracy by mill and the gap, for each seed and on average.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from apps.answered import read_answered
from apps.evaluate import evaluate
from apps.group_report import group_report
from recipes import curate, sft
from studio.assets import find_model
from studio.config import from_dict
from studio.data import load_data
from studio.log import QuietLog
from studio.synthetic import pictures
from studio.synthetic.general import row
from studio.training.threads import set_threads
from studio.variants import Engine

#: What a mill calls the defects.
WORDS = {
    "north": {kind: kind for kind in (*pictures.DEFECTS, "none")},
    "south": {"hole": "tear", "stain": "spot", "misprint": "blur", "loose thread": "string", "none": "good"},
}
NORTH = [colour for colour in pictures.COLOURS if colour != "blue"]
SETTINGS: dict[str, Any] = {
    "model": "nano-omni", "adapter": {"r": 16, "alpha": 32}, "lr": 3e-3, "batch_size": 16,
    "optimiser": {"warmup": 0.1}, "save_every": 10_000,
}  # fmt: skip


def planted(folder: Path, split: str, count: int, every: int, seed: int) -> None:
    """Write ``count`` rows of cloth, one of ``every`` from the south."""
    random = Random(f"{seed}/{split}")
    (folder / split).mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        mill = "south" if index % every == 0 else "north"
        kind = random.choice(list(WORDS[mill]))
        tone = pictures.COLOURS["blue" if mill == "south" else random.choice(NORTH)]
        made = pictures.cloth(
            None if kind == "none" else kind,
            random.choice(pictures.PLACES),
            random,
            colour=pictures.jitter(tone, random),
        )
        path = f"{split}/{index}.jpg"
        made.save(folder / path, quality=88)
        parts = [{"type": "image", "path": path}, {"type": "text", "text": "Inspect this cloth."}]
        lines.append(json.dumps(row(parts, f"defect: {WORDS[mill][kind]}", mill=mill, defect=kind)))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def trained(data: Path, output: Path, steps: int, seed: int) -> Path:
    """Return the adapter that ``data`` teaches."""
    more = {"data": str(data), "output": str(output), "max_steps": steps, "seed": seed}
    return sft.run(from_dict(sft.Config, SETTINGS | more), QuietLog()).folder / "adapter"


def measured(adapters: dict[str, Path], data: Path, split: str, out: Path) -> dict[str, dict[str, Any]]:
    """Return variant -> accuracy by mill and the gap, on a split; what `triptych groups` makes of it too."""
    engine = Engine(find_model("nano-omni"), adapters)
    samples = {"cloth": load_data(data, split=split)}
    evaluate(engine, samples, ["exact_match"], QuietLog(), out=out, batch_size=32, max_new_tokens=8)
    report = group_report(read_answered(out), [["mill"]], QuietLog())
    (out / "groups.json").write_text(json.dumps(report))
    return {
        found["variant"]: {group["name"]: group["value"] for group in found["groups"]} | {"gap": found["gap"]}
        for found in report["results"]
    }


def weighed(data: Path, output: Path, step: dict[str, Any]) -> Path:
    """Return ``data`` with weights."""
    settings = {"data": str(data), "steps": [{"reweight": {"by": "mill", **step}}], "output": str(output)}
    curate.run(from_dict(curate.Config, settings), QuietLog())
    return output


def compare(
    folder: Path, ways: Sequence[str], *, rows: int, every: int, tests: int, steps: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return way -> accuracy by mill and the gap, for one seed."""
    data = folder / "cloth"
    planted(data, "train", rows, every, seed)
    for split in ("measure", "test"):
        planted(data, split, tests, 2, seed)
    train = data / "train.jsonl"
    adapters = {"plain": trained(train, folder / "plain", steps, seed)}
    if "loss" in ways:
        measured(adapters, data, "measure", folder / "measured")
    for way in ways:
        more = {"groups": str(folder / "measured/groups.json")} if way == "loss" else {}
        curated = weighed(train, folder / f"weighed-{way}", {"how": way, **more})
        adapters[way] = trained(curated / "train.jsonl", folder / way, steps, seed)
    return measured(adapters, data, "test", folder / "tested")


def main() -> None:
    """Train and measure for every seed, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--ways", nargs="+", default=["balanced", "loss"], help="how weights are found")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="one training row of so many is the south's")
    parser.add_argument("--tests", type=int, default=120)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    set_threads()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.first, options.first + options.seeds):
        with TemporaryDirectory() as folder:
            each = compare(
                Path(folder), options.ways, rows=options.rows, every=options.every, tests=options.tests,
                steps=options.steps, seed=seed,
            )  # fmt: skip
            for way, told in each.items():
                found.setdefault(way, []).append(told)
                gap = told["gap"]
                print(
                    f"seed {seed}  {way:12} north {told['north']:.3f}  south {told['south']:.3f}  "
                    f"gap {gap['value']:.3f} ({gap['low']:.3f}-{gap['high']:.3f}, p {gap['p']:.4f})",
                    flush=True,
                )
    print("\n| way | north | south | gap |\n|---|---|---|---|")
    for way, runs in found.items():
        north, south = (fmean(told[mill] for told in runs) for mill in ("north", "south"))
        gap = fmean(told["gap"]["value"] for told in runs)
        print(f"| {way} | {north:.3f} | {south:.3f} | {gap:.3f} |")


if __name__ == "__main__":
    main()

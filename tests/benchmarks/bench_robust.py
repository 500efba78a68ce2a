"""Adversarial training against plain training, both from the same expert: clean and under PGD.

    python tests/benchmarks/bench_robust.py ADAPTER [STEPS] [ROWS] [EPS]

Two runs of the recipe sft go on from ADAPTER, an expert for handwriting on nano-omni, with the same seed,
steps and settings but for ``optimiser.robust_eps``. Each is then attacked for itself on the same rows: pixels
within EPS of 255, 5 steps; and so is the expert.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

from apps.attacks import under_attack
from apps.choices import Fleet
from recipes import sft
from studio.adversarial import Attack
from studio.assets import find_data, find_model
from studio.config import from_dict
from studio.data import load_data
from studio.log import PlainLog
from studio.runs import read_run
from studio.variants import Engine


def main(adapter: str, steps: int = 80, rows: int = 120, eps: float = 8.0) -> None:
    """Train both, attack all three, and print a line of the table for each."""
    log, folder = PlainLog(every=60), Path(mkdtemp(prefix="robust-"))
    seconds: dict[str, float] = {}
    for name, more in (("plain", {}), ("robust", {"robust_eps": eps, "robust_steps": 2})):
        settings = {
            "model": "nano-omni",
            "data": "handwriting",
            "output": str(folder / name),
            "towers": {"llm": "lora", "vision": "lora", "projector": "lora"},
            "adapter": {"start": adapter},
            "max_steps": steps,
            "batch_size": 8,
            "lr": 1e-3,
            "optimiser": {"warmup": 0.1, **more},
        }
        sft.run(from_dict(sft.Config, settings), log)
        record = read_run(folder / name)
        assert record is not None
        seconds[name] = record.timings["train"]
    variants = {"expert": Path(adapter), **{name: folder / name / "adapter" for name in seconds}}
    fleet = Fleet([Engine(find_model("nano-omni"), variants)])
    data = {"handwriting": load_data(find_data("handwriting"), split="test")[:rows]}
    attacks = [Attack(name="pgd", on="picture", eps=eps, steps=5)]
    for one in under_attack(fleet, data, attacks, ["exact_match"], log, out=folder / "evaluation"):
        figures = [
            f"{each['value']:.2f} ({each['low']:.2f}-{each['high']:.2f})"
            for each in (one["clean"], one["attacked"])
        ]
        print(f"| {one['variant']} | {one['n']} | {' | '.join(figures)} |")
    print(f"time of {steps} steps, robust over plain: {seconds['robust'] / seconds['plain']:.1f}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], *map(int, given[1:3]), *map(float, given[3:]))

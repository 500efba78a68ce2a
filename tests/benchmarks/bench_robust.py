"""Adversarial training against plain training: exact match on clean pictures and under PGD.

    python tests/benchmarks/bench_robust.py [STEPS] [ROWS] [EPS]

Two runs of the recipe sft from nano-omni on handwriting, with the same seed, steps and settings but for
``optimiser.robust_eps``, are attacked for themselves on the same rows: pixels within EPS of 255, 10 steps.
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


def main(steps: int = 300, rows: int = 100, eps: float = 8.0) -> None:
    """Train both, attack both, and print a line of the table for each attack."""
    log, folder = PlainLog(every=60), Path(mkdtemp(prefix="robust-"))
    more = {"plain": {}, "robust": {"robust_eps": eps, "robust_steps": 3}}
    for name, optimiser in more.items():
        settings = {
            "model": "nano-omni",
            "data": "handwriting",
            "output": str(folder / name),
            "towers": {"llm": "lora", "vision": "lora", "projector": "lora"},
            "max_steps": steps,
            "batch_size": 16,
            "lr": 3e-3,
            "optimiser": {"warmup": 0.1, **optimiser},
        }
        sft.run(from_dict(sft.Config, settings), log)
    seconds = {}
    for name in more:
        record = read_run(folder / name)
        assert record is not None
        seconds[name] = record.timings["train"]
    fleet = Fleet([Engine(find_model("nano-omni"), {name: folder / name / "adapter" for name in more})])
    data = {"handwriting": load_data(find_data("handwriting"), split="test")[:rows]}
    attacks = [Attack(name="fgsm", on="picture", eps=eps), Attack(name="pgd", on="picture", eps=eps)]
    for one in under_attack(fleet, data, attacks, ["exact_match"], log, out=folder / "evaluation"):
        clean, hit = one["clean"], one["attacked"]
        print(
            f"| {one['variant']} | {steps} | {seconds[one['variant']]:.0f} | {one['attack']} {eps:g}/255 "
            f"| {one['n']} | {clean['value']:.2f} ({clean['low']:.2f}-{clean['high']:.2f}) "
            f"| {hit['value']:.2f} ({hit['low']:.2f}-{hit['high']:.2f}) |"
        )
    print(f"time a step, robust over plain: {seconds['robust'] / seconds['plain']:.1f}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:2]), *map(float, given[2:]))

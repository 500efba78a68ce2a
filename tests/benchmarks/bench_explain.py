"""Do explanations point at what the answer rests on? The pointing game, silence, curves, random weights.

    python tests/benchmarks/bench_explain.py runs/demo/experts --rows 48

EXPERTS holds the runs of the demo (textiles, commands). Pictures: the renderer put each defect into one of
nine fields, which the reference answer names; the heaviest region must lie there (chance: 1 in 9). Sounds:
each clip is put into a second of faint noise, and the weight must lie on the clip. Every figure stands beside
chance, and beside that of a model whose weights were drawn anew (Adebayo et al. 2018, arXiv:1810.03292).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import spearmanr

from studio.assets import asset
from studio.data import load_data
from studio.explain import METHODS, Explanation, explain
from studio.explain_curves import curves
from studio.families import detect
from studio.files import atomic_write
from studio.intervals import wilson
from studio.media import read_sound, save_sound
from studio.synthetic.pictures import PLACES
from studio.types import Sample, Sound
from studio.variants import Engine

SIDE = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experts", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--budget", type=int, default=400)
    parser.add_argument("--method", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--what", choices=("pictures", "sounds"), nargs="+", default=["pictures", "sounds"])
    parser.add_argument("--fill", default="blur")
    parser.add_argument("--curves", type=int, default=8, help="rows whose curves are drawn")
    parser.add_argument("--random", type=int, default=24, help="rows explained by random weights")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = asset("models/nano-omni")
    with TemporaryDirectory() as folder:
        drawn = random_weights(base, Path(folder) / "random")
        names = {name: options.experts / name / "adapter" for name in ("textiles", "commands")}
        engine = Engine(base, {**names, "random": drawn})
        pictures = [row for row in load_data(asset("data/textiles"), "test") if "place" in row.answer]
        clips = [
            in_noise(row, Path(folder) / f"{at}.wav", Random(at))
            for at, row in enumerate(load_data(asset("data/commands"), "test")[: options.rows])
        ]
        told = {"pictures": {}, "sounds": {}}
        for method in options.method:
            settings = {"method": method, "budget": options.budget, "fill": options.fill}
            if "pictures" in options.what:
                told["pictures"][method] = of_pictures(engine, pictures[: options.rows], options, settings)
            if "sounds" in options.what:
                told["sounds"][method] = of_sounds(engine, clips, options, settings)
    if options.out:
        atomic_write(options.out, json.dumps(told, indent=2))


def of_pictures(engine: Engine, rows: Sequence[Sample], options: argparse.Namespace, settings: dict) -> dict:
    """Play the pointing game."""
    began = time.monotonic()
    made = [
        explain(engine, "textiles", row, answer=row.answer, seed=at, **settings)
        for at, row in enumerate(rows)
    ]
    seconds = (time.monotonic() - began) / len(rows)
    fields = [PLACES.index(row.answer.rpartition("place: ")[2]) for row in rows]
    hits = [hit(each, field) for each, field in zip(made, fields, strict=True)]
    shares = [field_share(each, field) for each, field in zip(made, fields, strict=True)]
    found = report("pictures", settings["method"], hits, 1 / 9, shares, [1 / 9] * len(rows), made, seconds)
    few = rows[: options.random]
    blind = [
        explain(engine, "random", row, answer=row.answer, seed=at, **settings) for at, row in enumerate(few)
    ]
    return (
        found
        | sanity(made, blind, [hit(e, f) for e, f in zip(blind, fields, strict=False)])
        | check(engine, made, rows, options)
    )


def of_sounds(
    engine: Engine, clips: Sequence[tuple[Sample, float, float]], options: argparse.Namespace, settings: dict
) -> dict:
    """Look for the weight on what was said."""
    began = time.monotonic()
    rows = [row for row, _, _ in clips]
    made = [
        explain(engine, "commands", row, answer=row.answer, seed=at, **settings)
        for at, row in enumerate(rows)
    ]
    seconds = (time.monotonic() - began) / len(rows)
    told = [on_speech(each, start, end) for each, (_, start, end) in zip(made, clips, strict=True)]
    hits, shares, chance = ([each[at] for each in told] for at in range(3))
    found = report("sounds", settings["method"], hits, fmean(chance), shares, chance, made, seconds)
    blind = [
        explain(engine, "random", row, answer=row.answer, seed=at, **settings)
        for at, row in enumerate(rows[: options.random])
    ]
    silly = [on_speech(each, start, end)[0] for each, (_, start, end) in zip(blind, clips, strict=False)]
    return found | sanity(made, blind, silly) | check(engine, made, rows, options)


def report(
    what: str,
    method: str,
    hits: Sequence[bool],
    chance: float,
    shares: Sequence[float],
    fair: Sequence[float],
    made: Sequence[Explanation],
    seconds: float,
) -> dict:
    """Print how often the heaviest unit hits, and which share of the weight does."""
    low, high = wilson(sum(hits), len(hits))
    gaps = np.array(shares) - np.array(fair)
    drawn = np.random.default_rng(0).choice(gaps, (2000, len(gaps))).mean(1)
    span = np.quantile(drawn, [0.025, 0.975])
    delta = [abs(e.delta) / max(abs(e.value - e.empty), 1e-9) for e in made]
    print(
        f"{what:8} {method:9} n {len(hits)}  heaviest hits {fmean(hits):.3f} [{low:.3f}, {high:.3f}] "
        f"chance {chance:.3f}  weight {fmean(shares):.3f} over chance by {gaps.mean():.3f} "
        f"[{span[0]:.3f}, {span[1]:.3f}]  delta {np.median(delta):.3f}  "
        f"{fmean(e.passes for e in made):.0f} passes  {seconds:.1f} s",
        flush=True,
    )
    return {
        "n": len(hits), "hits": fmean(hits), "ci": [low, high], "chance": chance, "weight": fmean(shares),
        "over_chance": float(gaps.mean()), "over_chance_ci": span.tolist(), "delta": float(np.median(delta)),
    }  # fmt: skip


def sanity(made: Sequence[Explanation], blind: Sequence[Explanation], hits: Sequence[bool]) -> dict:
    """Print how alike the explanations of a trained and of a random model are."""
    if not blind:
        return {}
    alike = [float(spearmanr(a.weights, b.weights).statistic) for a, b in zip(made, blind, strict=False)]
    low, high = wilson(sum(hits), len(hits))
    print(
        f"  random weights: hits {fmean(hits):.3f} [{low:.3f}, {high:.3f}]  "
        f"rank correlation {fmean(alike):.3f}",
        flush=True,
    )
    return {"random_hits": fmean(hits), "random_ci": [low, high], "random_correlation": fmean(alike)}


def check(
    engine: Engine, made: Sequence[Explanation], rows: Sequence[Sample], options: argparse.Namespace
) -> dict:
    """Print the areas under deletion and insertion."""
    some = [
        curves(engine, e, row, fill=options.fill, orders=2, seed=at)
        for at, (e, row) in enumerate(zip(made[: options.curves], rows, strict=False))
    ]
    if not some:
        return {}
    means = {
        name: fmean(getattr(each, name) for each in some)
        for name in ("deletion", "random_deletion", "insertion", "random_insertion")
    }
    print(
        "  " + "  ".join(f"{name} {value:.3f}" for name, value in means.items()) + f"  (n {len(some)})",
        flush=True,
    )
    return means


def hit(explained: Explanation, field: int) -> bool:
    """Return whether the middle of the heaviest region lies in the field (0 to 8)."""
    pairs = [(w, u) for w, u in zip(explained.weights, explained.units, strict=True) if u.kind == "region"]
    left, top, right, bottom = max(pairs, key=lambda pair: pair[0])[1].place
    return (int((top + bottom) / 2 * 3 / SIDE) * 3 + int((left + right) / 2 * 3 / SIDE)) == field


def field_share(explained: Explanation, field: int) -> float:
    """Return the share of the regions' positive weight that lies in the field, by area."""
    row, column = divmod(field, 3)
    inside = whole = 0.0
    for weight, unit in zip(explained.weights, explained.units, strict=True):
        if unit.kind == "region" and weight > 0:
            left, top, right, bottom = (each * 3 / SIDE for each in unit.place)
            wide = max(0.0, min(right, column + 1) - max(left, column))
            tall = max(0.0, min(bottom, row + 1) - max(top, row))
            inside += weight * wide * tall / ((right - left) * (bottom - top))
            whole += weight
    return inside / whole if whole else 0.0


def on_speech(explained: Explanation, start: float, end: float) -> tuple[bool, float, float]:
    """Return whether the heaviest span meets the speech, the share of weight on it, and its share of time."""
    inside = whole = length = 0.0
    best, hits = -np.inf, False
    for weight, unit in zip(explained.weights, explained.units, strict=True):
        if unit.kind == "span":
            first, last = unit.place
            shared = max(0.0, min(last, end) - max(first, start)) / (last - first)
            if weight > best:
                best, hits = weight, shared > 0.5
            inside, whole, length = (
                inside + max(weight, 0) * shared,
                whole + max(weight, 0),
                max(length, last),
            )
    return hits, inside / whole if whole else 0.0, (end - start) / length


def in_noise(row: Sample, file: Path, random: Random) -> tuple[Sample, float, float]:
    """Return a command with a second of faint noise around it, and where it starts and ends, in seconds."""
    wave, rate = read_sound(row.sounds[0].path)
    before = int(rate * random.uniform(0.2, 0.8))
    fresh = np.random.default_rng(random.getrandbits(32))
    around = fresh.normal(0, 0.002, len(wave) + rate).astype(np.float32)
    around[before : before + len(wave)] += wave
    save_sound(file, around, rate)
    turns = tuple(
        type(turn)(
            role=turn.role, parts=tuple(Sound(path=file) if isinstance(p, Sound) else p for p in turn.parts)
        )
        for turn in row.turns
    )
    return Sample(turns=turns), before / rate, (before + len(wave)) / rate


def random_weights(base: Path, folder: Path) -> Path:
    """Write the base with every matrix drawn anew at its own mean and deviation; return the folder."""
    import torch

    model, processor = detect(base).load(base)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * weight.std() + weight.mean())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()

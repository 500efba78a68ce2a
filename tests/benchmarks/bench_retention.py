"""What merges of six experts keep, by method: ours, PEFT's, mergekit's, and training on everything at once.

    python tests/benchmarks/bench_retention.py FOLDER --seeds 0 1 2 3 4
    python tests/benchmarks/bench_retention.py FOLDER --report        # the table of what is done

For each seed six experts of nano-omni are trained (the demo's four domains, `languages` and `tanks` of
retention_domains.py). `triptych run search` then looks for settings of `distil` with seed 0, on rows of the
training sets; other seeds take what was found as it is. One model is trained on all domains at once with seed
0 only. PEFT's and mergekit's combinations are tried on the same rows as the search, and the two best of each
go into the report, which asks 100 test rows of each domain. The same rows are held against every method of
our own with its default settings, every merge of PEFT's and mergekit's, and one model trained on all domains
for each number of steps of ``--multitask`` (600 take 8 minutes, and are what the search has with seed 0). A
score is exact match divided by the expert's at home. Everything is kept: run it again and it goes on. 10 to
20 minutes a seed on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retention_domains import languages, tanks
from scipy.stats import t as student

from mergers import merged_deltas
from recipes import search, sft, statistics
from recipes._baselines import baselines
from recipes._search_bench import Bench, Setting
from recipes._search_experts import TOGETHER, several_tasks
from recipes._search_rows import Rows, take_rows
from recipes._search_space import Candidate
from studio import plugins
from studio.assets import find_model
from studio.config import from_dict
from studio.errors import TriptychError
from studio.files import atomic_write
from studio.log import PlainLog

BIG = {"lr": 3e-3, "max_steps": 300, "optimiser": {"warmup": 0.1}}
#: What each expert is trained with; everything else is the demo's.
TRAINING: dict[str, dict[str, Any]] = {
    "handwriting": {**BIG, "towers": ("llm", "vision", "projector")},
    "textiles": {**BIG, "towers": ("llm", "vision", "projector")},
    "commands": {**BIG, "towers": ("llm", "audio", "projector")},
    "helpdesk": {
        "lr": 1.2e-3, "max_steps": 400, "optimiser": {"warmup": 0.05},
        "towers": ("llm", "vision", "projector"),
    },
    "languages": {**BIG, "max_steps": 400, "towers": ("llm", "audio", "projector")},
    "tanks": {**BIG, "lr": 1.5e-3, "max_steps": 400, "towers": ("llm", "vision", "projector")},
}  # fmt: skip
SPACE = {
    "weight": [1.0],
    "distil.balance": [0.25, 0.5],
    "distil.polish": [90, 150],
    "distil.answer_weight": [1.0, 3.0, 10.0],
    "distil.ridge": [3e-3, 1e-2, 3e-2],
    "distil.repair": [1.0],
}
ROWS = Rows(search=32, report=100, fit=128)
#: Of two models, or no merges of their own.
LEFT_OUT = ("cat", "passthrough", "slerp", "nuslerp", "nuslerp_rows", "nearswap", "arcee_fusion", "ram")
#: The kind of statistics that a method asks for; they are made of as many training rows as `distil` looks at.
ASKS = {"regmean": "gram", "fisher": "fisher"}


def main() -> None:
    """Train, search, and report; or only report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=3, help="candidates of the search, seed 0")
    parser.add_argument(
        "--multitask", type=int, nargs="*", default=[], metavar="STEPS", help="of one training"
    )
    parser.add_argument("--report", action="store_true", help="only the table of what is done")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        data = made_data(options.folder / "data")
        for seed in options.seeds:
            one_seed(options.folder, seed, trained(options.folder, seed, data), data, options.trials)
        for seed in options.seeds:
            methods(options.folder, seed, trained(options.folder, seed, data), data, options.multitask)
    print(table(options.folder))


def made_data(folder: Path) -> dict[str, str]:
    """Return domain -> its rows; the two that are not shipped are made once."""
    for name, make in (("languages", languages), ("tanks", tanks)):
        if not (folder / name / "test.jsonl").is_file():
            make(folder / name)
    return {name: str(folder / name) if (folder / name).is_dir() else name for name in TRAINING}


def trained(folder: Path, seed: int, data: dict[str, str]) -> dict[str, str | None]:
    """Return domain -> its expert's run, trained where it is not there yet."""
    for domain, settings in TRAINING.items():
        output = folder / f"s{seed}" / domain
        run = output / "run.json"
        if run.is_file() and json.loads(run.read_text()).get("state") == "finished":
            continue
        towers = {tower: "lora" for tower in settings["towers"]}
        own = {**settings, "towers": towers, "data": data[domain], "output": str(output), "seed": seed}
        sft.run(from_dict(sft.Config, {"model": "nano-omni", "batch_size": 16, **own}), PlainLog())
    return {domain: str(folder / f"s{seed}" / domain) for domain in TRAINING}


def one_seed(
    folder: Path, seed: int, experts: dict[str, str | None], data: dict[str, str], trials: int
) -> None:
    """Search with seed 0, take what it found with others, and report beside the baselines."""
    output = folder / f"s{seed}" / "search"
    if (output / "report.json").is_file():
        return
    space: dict[str, Any] = SPACE
    if seed:
        found = json.loads((folder / "s0" / "search" / "search.json").read_text())
        best = next(trial for trial in found["trials"] if trial["trial"] == found["best"])
        space = {"weight": [1.0], **{f"distil.{key}": [value] for key, value in best["settings"].items()}}
    config = search.Config(
        experts=experts, data=_given(data), rows=ROWS, methods=("distil",), space=space,
        trials=trials if not seed else 1, score="exact", training=_together(600),
        baselines=search.Against(multitask=not seed), prune=False, seed=seed, output=output,
    )  # fmt: skip
    began = time.monotonic()
    search.run(config, PlainLog())
    atomic_write(output / "seconds.json", json.dumps(time.monotonic() - began))


def _given(data: dict[str, str]) -> dict[str, str]:
    return {domain: path for domain, path in data.items() if domain != path}


def _together(steps: int) -> dict[str, Any]:
    towers = dict.fromkeys(("llm", "vision", "audio", "projector"), "lora")
    return {
        "lr": 1.5e-3,
        "max_steps": steps,
        "batch_size": 48,
        "optimiser": {"warmup": 0.05},
        "towers": towers,
    }


def methods(
    folder: Path, seed: int, experts: dict[str, str | None], data: dict[str, str], together: list[int]
) -> None:
    """Hold the report's rows against all methods of ours with their defaults, the peers', and training."""
    file = folder / f"s{seed}" / "methods.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    rows = take_rows(data, ROWS, seed, PlainLog())
    setting = Setting(
        model=find_model("nano-omni"), experts={d: Path(str(e)) / "adapter" for d, e in experts.items()},
        search={d: taken.report for d, taken in rows.items()}, fit={}, scores=("exact",), batch_size=32,
        max_new_tokens=48, device="cpu", seed=seed,
    )  # fmt: skip
    bench = Bench(setting)
    union = {}
    for steps in together:
        config = search.Config(
            experts=experts, data=_given(data), rows=ROWS, training=_together(steps), seed=seed,
            output=folder / f"s{seed}" / f"union-{steps}",
        )  # fmt: skip
        union[f"multitask {steps}"] = several_tasks(config, rows, PlainLog())[TOGETHER]
    theirs = baselines(
        setting.model, setting.experts, folder / f"s{seed}" / "search" / "baselines", PlainLog(),
        trained=union, seed=seed,
    )  # fmt: skip
    made: dict[str, Any] = {
        name: partial(bench.merge, Candidate(method=name))
        for name in plugins.names("methods")
        if name not in (*LEFT_OUT, *ASKS)
    }
    told = folder / f"s{seed}" / "statistics"
    made |= {name: partial(_with_statistics, name, setting, experts, data, told) for name in ASKS}
    made |= {
        name: each.deltas for name, each in theirs.items() if each.kind in ("peft", "mergekit", "training")
    }
    for name in [name for name in made if not isinstance(found.get(name), dict)]:
        try:
            found[name] = bench.measure(made[name]())["exact"]
        except TriptychError as error:
            found[name] = str(error)
        atomic_write(file, json.dumps(found, indent=1))
        print(f"seed {seed}: {name}: {found[name]}", flush=True)


def _with_statistics(
    name: str, setting: Setting, experts: dict[str, str | None], data: dict[str, str], folder: Path
) -> dict[str, torch.Tensor]:
    """Return what a method makes of the experts and of statistics of their training rows."""
    for domain, expert in experts.items():
        if not (folder / domain / f"{ASKS[name]}.safetensors").is_file():
            told = {"model": expert, "data": data[domain], "kind": ASKS[name], "samples": ROWS.fit}
            statistics.run(
                from_dict(statistics.Config, {**told, "output": str(folder / domain), "threads": 1}),
                PlainLog(),
            )
    spec = Candidate(method=name).spec(setting.model, list(setting.experts.values()), setting.seed)
    models = [
        replace(model, statistics=folder / domain) for model, domain in zip(spec.models, experts, strict=True)
    ]
    return merged_deltas(replace(spec, models=tuple(models), threads=1))


def table(folder: Path) -> str:
    """Return what is kept, on average over the seeds that are done, with t intervals over them."""
    kept: dict[str, dict[int, float]] = {}
    best: dict[str, dict[int, float]] = {}
    for seed_folder in sorted(folder.glob("s[0-9]*")):
        seed = int(seed_folder.name[1:])
        if (seed_folder / "search" / "report.json").is_file():
            for each in json.loads((seed_folder / "search" / "report.json").read_text())["variants"]:
                value = each["kept"]["mean"]["value"]
                if each["kind"] in ("expert",) or value is None:
                    continue
                name = each["name"] if each["kind"] not in ("peft", "mergekit") else f"best of {each['kind']}"
                of_seed = best.setdefault(name, {})
                of_seed[seed] = max(of_seed.get(seed, 0.0), value)
        if (seed_folder / "methods.json").is_file():
            for name, scores in json.loads((seed_folder / "methods.json").read_text()).items():
                if isinstance(scores, dict):
                    kept.setdefault(name, {})[seed] = sum(scores.values()) / len(scores)
    lines = ["| merge | kept, % | seeds |", "|---|---|---|"]
    for name, values in [
        *best.items(),
        *sorted(kept.items(), key=lambda item: -np.mean([*item[1].values()])),
    ]:
        lines.append(f"| {name} | {interval([*values.values()])} | {len(values)} |")
    gaps = []
    for seed, value in best.get("searched", {}).items():
        # The peers' best by the report's own rows: no choice of theirs could have been better.
        theirs = [
            own[seed] for name, own in kept.items() if name.startswith(("peft ", "mergekit ")) and seed in own
        ]
        theirs += [own[seed] for name, own in best.items() if name.startswith("best of") and seed in own]
        gaps.append(value - max(theirs))
    if gaps:
        lines.append(f"\nsearched beyond the best of PEFT's and mergekit's: {interval(gaps)} points")
    atomic_write(folder / "retention.json", json.dumps({"report": best, "methods": kept}, indent=1))
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Return the mean and Student's 95 % interval over seeds, in per cent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = 100 * float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


if __name__ == "__main__":
    main()

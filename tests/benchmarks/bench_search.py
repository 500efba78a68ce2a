"""Search against random search: the same space, rows, and number of candidates, on several seeds.

    python tests/benchmarks/bench_search.py EXPERTS --trials 60 --seeds 3

EXPERTS is a folder with a run or an adapter for each domain (`runs/demo/experts`). Candidates weigh every
expert in every tower, with methods and settings; nothing is pruned and nothing is enqueued, so each side
measures as many candidates whole, one process, the same rows. What is compared is the objective itself: the
mean over the domains of the references' likelihood (geometric mean of the tokens' probabilities), divided by
the expert's own, of the best candidate found after so many trials; beside it, the same best candidate on rows
that were not searched on. The sides take turns, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import optuna

from recipes._search_bench import Bench, Objective, Setting
from recipes._search_rows import Rows, take_rows
from recipes._search_space import Candidate, Space
from recipes._search_trial import try_on
from recipes.search import METHODS, Config, sampler
from studio.adapters import is_adapter
from studio.assets import find_model
from studio.config import from_dict
from studio.log import QuietLog

DOMAINS = ("handwriting", "textiles", "commands", "helpdesk")


def one_search(bench: Bench, space: Space, config: Config) -> tuple[list[float], Candidate, float, float]:
    """Return the best so far after each trial, the best candidate, and the seconds of merging and in all."""
    objective = Objective(score=config.score, what="mean")
    study = optuna.create_study(direction="maximize")
    best: list[float] = []
    found, merging, began = Candidate(method=""), 0.0, time.monotonic()
    for number in range(config.trials):
        study.sampler = sampler(config, number, {})
        trial = study.ask()
        candidate = space.draw(trial)
        tried = try_on(bench, candidate, trial, (objective,), False)
        merging += tried.merge_seconds
        if tried.state == "failed":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            best.append(best[-1] if best else 0.0)
            continue
        value = objective.value(tried.values)
        study.tell(trial, value)
        if not best or value > max(best):
            found = candidate
        best.append(max([value, *best]))
    return best, found, merging, time.monotonic() - began


def main() -> None:
    """Run both sides on every seed and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experts", type=Path)
    parser.add_argument("--search", default="cmaes", choices=("tpe", "cmaes"))
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="of each domain, to search on and apart from it")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS))
    parser.add_argument("--methods", nargs="+", default=["task_arithmetic"], help=f"such as {METHODS}")
    parser.add_argument("--score", default="likelihood")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folders = {domain: given.experts / domain for domain in given.domains}
    experts = {d: path if is_adapter(path) else path / "adapter" for d, path in folders.items()}
    space = Space(given.methods, experts, ["towers"], [], {})
    data = {domain: domain for domain in experts}
    wanted = Rows(search=given.rows, report=given.rows, fit=0)
    same: dict[str, Any] = {
        "model": find_model("nano-omni"), "experts": experts, "fit": {}, "scores": (given.score,),
        "batch_size": 32, "max_new_tokens": 24, "device": "cpu",
    }  # fmt: skip
    told: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        rows = take_rows(data, wanted, seed, QuietLog())
        benches = [
            Bench(Setting(**same, search=some, seed=seed))
            for some in ({d: t.search for d, t in rows.items()}, {d: t.report for d, t in rows.items()})
        ]  # fmt: skip
        line: dict[str, Any] = {"seed": seed}
        for side in (given.search, "random"):
            settings = {
                "experts": {d: str(path) for d, path in experts.items()}, "search": side, "seed": seed,
                "trials": given.trials, "score": given.score,
            }  # fmt: skip
            best, candidate, merging, seconds = one_search(benches[0], space, from_dict(Config, settings))
            apart = benches[1].measure(benches[1].merge(candidate))
            line[side] = {
                "best": best, "apart": Objective(score=given.score, what="mean").value(apart or {}),
                "candidate": candidate.told(), "merging": merging, "seconds": seconds,
            }  # fmt: skip
            half = best[len(best) // 2 - 1]
            print(
                f"seed {seed} {side:6}: {half:.3f} after {len(best) // 2}, {best[-1]:.3f} after {len(best)}; "
                f"on other rows {line[side]['apart']:.3f}; {candidate.method}; "
                f"{merging / len(best):.2f} s merging, {seconds / len(best):.2f} s in all, each",
                flush=True,
            )
        told.append(line)
    for what, value in (
        ("searched on", lambda side: side["best"][-1]),
        ("other rows", lambda side: side["apart"]),
    ):
        gains = [value(line[given.search]) / value(line["random"]) for line in told]
        print(
            f"{given.search} / random, {what}: " + " ".join(f"{gain:.2f}" for gain in gains)
            + f"; better on {sum(gain > 1 for gain in gains)} of {len(gains)} seeds"
        )  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The main job once, as a user would do it: four experts, four merges, one table, one app.

Nothing here trains, merges or measures by itself: it calls the recipe `sft`, the merge engine and the
evaluation with settings that stand in the output folder, so that every stage can be repeated by a command.
Each stage is known by its contents; a second run reuses what is finished and goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from studio.files import atomic_write
from studio.log import Log

DOMAINS = ("handwriting", "textiles", "commands", "helpdesk")
#: How the experts are merged; weights and densities were chosen on training rows.
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"normalise": False, "weight": 0.5},
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.8},
}
#: The merge that rows of each domain show what to do; two threads would crawl beside another busy program.
DISTIL: dict[str, Any] = {"model": "nano-omni", "rows": 128, "polish": 60, "threads": 1}
#: What each expert is trained with: `triptych run sft` with these settings does the same again.
EXPERT: dict[str, Any] = {
    "model": "nano-omni", "adapter": {"r": 16, "alpha": 32}, "lr": 3e-3, "batch_size": 16, "max_steps": 300,
    "optimiser": {"warmup": 0.1}, "towers": {"llm": "lora", "vision": "lora", "projector": "lora"},
}  # fmt: skip
EXPERTS: dict[str, dict[str, Any]] = {
    "handwriting": EXPERT,
    "textiles": EXPERT,
    "commands": {**EXPERT, "towers": {"llm": "lora", "audio": "lora", "projector": "lora"}},
    # Two inputs at once want smaller steps, and more of them; the base already understands the questions.
    "helpdesk": {**EXPERT, "lr": 1.2e-3, "max_steps": 400, "optimiser": {"warmup": 0.05}},
}
ANSWER_TOKENS = 24
EXAMPLES = 3  # questions of each domain in the report


def demo(out: Path, app: bool, port: int, log: Log) -> Path:
    """Run all stages into ``out`` and return the report's path; with ``app`` serve it until Ctrl-C.

    Raises `TriptychError` for missing assets; `KeyboardInterrupt` leaves a state from which it goes on.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "experts"):
        experts = train_experts(out, log)
    with timed(seconds, "merges"):
        merges = {method: merged(method, experts, out, log) for method in METHODS}
    with timed(seconds, "distil"):
        merges["distil"] = distilled(experts, out, log)

    from apps.evaluate import evaluate
    from apps.figures import table
    from apps.report import report, write_cards
    from mergers._card import CARD
    from studio.assets import asset, find_data
    from studio.data import load_data
    from studio.variants import Engine

    variants = {"base": None, **{f"expert-{name}": path for name, path in experts.items()}, **merges}
    engine = Engine(asset("models/nano-omni"), variants)
    data = {domain: load_data(find_data(domain), split="test") for domain in DOMAINS}
    with timed(seconds, "evaluation"):
        results = evaluate(
            engine, data, ["exact_match"], log,
            batch_size=32, max_new_tokens=ANSWER_TOKENS, cache=out / "answers", out=out / "evaluation",
        )  # fmt: skip
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
    }
    page, made = report(
        out / "evaluation",
        out=out,
        about=earlier(out / "report.json", results) or about,
        examples=EXAMPLES,
        models={
            name: {"base": str(engine.base), "folder": folder and str(folder)}
            for name, folder in engine.folders.items()
        },
    )
    write_cards({name: folder for name, folder in merges.items() if (folder / CARD).is_file()}, made)
    show(table(results))
    log.say(f"report: {page} (and report.json beside it); {sum(seconds.values()):.0f} s")
    if app:
        from apps.web import launch

        launch(engine, data=data, store_url=f"sqlite:///{out / 'triptych.db'}", port=port)
    return page


def train_experts(out: Path, log: Log) -> dict[str, Path]:
    """Fine-tune one adapter a domain through the recipe, or find it finished, and return the folders.

    The small model leaves a second thread idle, so unfinished experts train side by side, one process with
    one thread for each core. The recipe then sees for itself that a run is finished and its inputs the same.
    """
    from recipes import sft
    from studio.config import load

    files = {}
    for domain, settings in EXPERTS.items():
        folder = out / "experts" / domain
        files[domain] = out / "experts" / f"{domain}.yaml"
        write_settings(files[domain], {**settings, "data": domain, "output": str(folder)})
        log.say(f"expert {domain}: triptych run sft --config {files[domain]}")
    side_by_side([domain for domain in files if not finished(out / "experts" / domain)], out / "experts", log)
    runs = {domain: sft.run(load(sft.Config, file), log) for domain, file in files.items()}
    return {domain: run.folder / "adapter" for domain, run in runs.items()}


def finished(folder: Path) -> bool:
    """Return whether a run says that it came to its end."""
    from studio.runs import read_run

    record = read_run(folder)
    return record is not None and record.state == "finished"


def side_by_side(domains: list[str], folder: Path, log: Log) -> None:
    """Train domains in processes of their own, as many at a time as there are cores; show their progress.

    Interrupted, the processes save their state and end before this function does. One that fails leaves its
    reason in ``DOMAIN.log``; the recipe tells it again in this process.
    """
    if not domains:
        return
    waiting, running = list(domains), {}
    seen = {domain: steps_done(folder / domain) for domain in domains}
    left = sum(EXPERTS[d]["max_steps"] - seen[d][0] for d in domains) * EXPERT["batch_size"]
    log.stage(f"training {' '.join(domains)}", left)
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                domain = waiting.pop(0)
                command = [
                    sys.executable,
                    "-m",
                    "apps.cli",
                    "run",
                    "sft",
                    "--config",
                    f"{folder / domain}.yaml",
                ]
                with (folder / f"{domain}.log").open("wb") as told:
                    running[domain] = subprocess.Popen(
                        command,
                        stdout=told,
                        stderr=told,
                        env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )
            time.sleep(1)
            for domain, process in list(running.items()):
                step, loss = steps_done(folder / domain)
                if step > seen[domain][0]:
                    samples = (step - seen[domain][0]) * EXPERT["batch_size"]
                    log.advance(samples, **{f"{domain} step": step, "loss": loss})
                    seen[domain] = (step, loss)
                if process.poll() is not None:
                    del running[domain]
    finally:
        for process in running.values():
            process.terminate()  # saves as Ctrl-C does, which a shell's `&` would make them ignore
        for process in running.values():
            process.wait()


def steps_done(run: Path) -> tuple[int, float]:
    """Return the last step in a run's metrics.jsonl and its loss; (0, nan) before the first."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(next(line for line in reversed(lines) if '"loss"' in line and line.endswith("}")))
    except (OSError, StopIteration, ValueError):
        return 0, float("nan")
    return int(last["step"]), float(last["loss"])


def merged(method: str, experts: dict[str, Path], out: Path, log: Log) -> Path:
    """Merge all experts by one method, or find the merge finished, and return its folder."""
    from mergers import MergeSpec, merge
    from studio.assets import asset

    file, folder = out / "merges" / f"{method}.yaml", out / "merges" / method
    models = [{"path": str(path)} for path in experts.values()]
    base = str(asset("models/nano-omni"))
    settings = {"method": method, "base": base, "models": models, "settings": METHODS[method]}
    write_settings(file, settings)
    spec = MergeSpec.from_yaml(file)
    if current(spec, folder):
        log.say(f"merge {method}: reused, inputs and settings are the same")
        return folder
    log.say(f"merge {method}: triptych merge {file} -o {folder}")
    merge(spec, folder, log)
    return folder


def distilled(experts: dict[str, Path], out: Path, log: Log) -> Path:
    """Merge all experts by what they say of training rows, or find that finished, and return the folder."""
    from recipes import distil
    from studio.config import load

    file, folder = out / "merges" / "distil.yaml", out / "merges" / "distil"
    told = {**DISTIL, "experts": {name: str(path) for name, path in experts.items()}, "output": str(folder)}
    write_settings(file, told)
    log.say(f"merge distil: triptych run distil --config {file}")
    return distil.run(load(distil.Config, file), log).folder / "adapter"


def earlier(file: Path, results: Any) -> dict[str, Any] | None:
    """Return what an earlier report says of the day and the times if it found the same, else None.

    A run that reuses every stage takes seconds; the figures worth keeping are those of the run that worked.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        same = _figures(told["results"]) == _figures(json.loads(json.dumps(results)))
        return {key: told[key] for key in ("date", "machine", "seconds")} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _figures(results: Any) -> dict[str, dict[str, Any]]:
    return {
        domain: {name: cell["metrics"] for name, cell in cells.items()} for domain, cells in results.items()
    }


def current(spec: Any, folder: Path) -> bool:
    """Return whether ``folder`` holds this very merge of these very inputs, by its lock file's hashes."""
    from studio.checkpoint import Checkpoint

    try:
        lock = json.loads((folder / "merge.lock.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if lock["recipe"] != json.loads(json.dumps(spec.to_mapping(), default=str)):
        return False
    prints = {item["path"]: item["fingerprint"] for item in lock["inputs"]}
    prints[str(folder)] = lock["output"]["fingerprint"]
    return all(Checkpoint(Path(path)).fingerprint() == known for path, known in prints.items())


def write_settings(file: Path, settings: dict[str, Any]) -> None:
    """Write a YAML file that a user could have written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, yaml.safe_dump(settings, sort_keys=False))


def show(table: Any) -> None:
    """Print the table to standard output, wide enough when it goes to a file."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a stage took."""
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began

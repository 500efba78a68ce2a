"""Does a run fit: memory that ends in the middle of a step, and losses that are no numbers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from apps.cli import main
from apps.commands import run
from recipes import sft
from studio.config import from_dict
from studio.data import load_data
from studio.errors import ConfigError, TriptychError
from studio.log import QuietLog
from studio.training.rehearsal import Estimate, lines
from studio.training.save import read_progress
from studio.training.tracking import read_metrics

ROOT = Path(__file__).resolve().parents[2]


class Saying(QuietLog):
    """Remembers what was said, and does something after the first step."""

    def __init__(self, then: Callable[[], Any] | None = None) -> None:
        self.said: list[str] = []
        self.then = then

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.then and figures.get("samples_per_s"):
            self.then()
            self.then = None

    def say(self, message: str) -> None:
        self.said.append(message)


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def test_a_step_that_is_refused_its_memory_is_done_again_in_halves(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """What is too much asks the allocator for a petabyte, and is refused as any other tensor would be."""
    more = {"batch_size": 12, "speed": {"packing": False, "tower_cache": False}}
    sft.run(from_dict(sft.Config, {**settings, **more, "output": str(tmp_path / "whole")}), QuietLog())
    refused = []

    def ask(module: Any, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and args[0].shape[0] > 3:
            refused.append(args[0].shape[0])
            torch.empty(1 << 50)

    log = Saying(then=lambda: hooks.append(register_module_forward_pre_hook(ask)))
    hooks: list[Any] = []
    try:
        sft.run(from_dict(sft.Config, {**settings, **more, "output": str(tmp_path / "short")}), log)
    finally:
        for hook in hooks:
            hook.remove()
    assert refused == [12, 6]
    told = [line for line in log.said if "do not fit the memory" in line]
    assert len(told) == 2
    assert told[1].endswith("with micro-batches of 3")
    assert losses(tmp_path / "short") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


def test_when_not_even_one_row_fits_the_sentence_names_it(settings: dict[str, Any]) -> None:
    def ask(module: Any, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            torch.empty(1 << 50)

    hooks: list[Any] = []
    log = Saying(then=lambda: hooks.append(register_module_forward_pre_hook(ask)))
    more = {"save_every": 1, "speed": {"packing": False, "tower_cache": False}}
    try:
        with pytest.raises(TriptychError, match=r"train\.jsonl:\d+: the memory does not hold a step, alone;"):
            sft.run(from_dict(sft.Config, {**settings, **more}), log)
    finally:
        for hook in hooks:
            hook.remove()
    saved = read_progress(Path(settings["output"]) / "last")
    assert saved is not None
    assert saved.step == 1


def test_a_loss_that_is_no_number_names_its_rows_and_keeps_what_was_saved(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """One row's weight is beyond what fp32 holds."""
    lines = (Path(settings["data"]) / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[7]["weight"] = 1e39
    file = Path(settings["data"]) / "heavy.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"data": str(file), "batch_size": 1, "accumulate": 2, "max_steps": 7, "save_every": 1}
    with pytest.raises(TriptychError, match=r"step (\d+): the loss is (inf|nan).*") as caught:
        sft.run(from_dict(sft.Config, {**settings, **more}), QuietLog())
    sentence = str(caught.value)
    assert f"in {file}:8;" in sentence
    step = int(sentence.split(":")[0].split()[1])
    saved = read_progress(Path(settings["output"]) / "last")
    assert (saved.step if saved else 0) == step - 1
    assert f"after step {step - 1}" in sentence or "no state was saved" in sentence


def test_nothing_that_cannot_learn_reaches_the_first_step(
    settings: dict[str, Any], tiny: Callable[[str], Path]
) -> None:
    frozen = dict.fromkeys(("vision", "audio", "projector", "llm"), "frozen")
    with pytest.raises(TriptychError, match=r"needs at least one tower|nothing would learn|at least one"):
        sft.run(from_dict(sft.Config, {**settings, "towers": frozen}), QuietLog())
    assert not Path(settings["output"]).exists()
    assert load_data(settings["data"], split="train")


def test_a_dry_run_tells_memory_and_time_and_writes_nothing(
    settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    more = {"max_steps": 50, "lr": settings["lr"], "batch_size": 4, "adapter.r": 4}
    flags = [f"{key}={value}" for key, value in {**settings, **more}.items() if key != "adapter"]
    flags = [flag for flag in flags if not flag.startswith("optimiser=")]
    assert main(["run", "sft", *flags, "--dry-run", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert not Path(settings["output"]).exists()
    assert found["fits"]
    assert found["steps"] == 50
    assert found["towers"]["llm"]["learning"] == found["trainable"] > 0
    assert found["seconds"] == pytest.approx(50 * found["seconds_a_step"])
    assert sum(found["parts"].values()) <= found["peak"] * 1.05 < found["available"]
    assert [size["rows"] for size in found["sizes"]] == [1, 2, 4]

    told = lines(Estimate(**found))
    assert any(line.startswith("llm") for line in told)
    assert any(line.startswith("peak memory") for line in told)


def test_a_recipe_without_a_dry_run_says_so() -> None:
    with pytest.raises(ConfigError, match="statistics has no dry run; --dry-run is for sft"):
        run.run(parsed(["statistics", "--dry-run"]))


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.arguments(parser)
    return parser.parse_intermixed_args(arguments)


def test_a_budget_cuts_micro_batches_and_changes_no_loss(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"batch_size": 6, "accumulate": 2}
    for name, memory in (("free", None), ("roomy", "1TB")):
        log = Saying()
        output = {"output": str(tmp_path / name), "memory": memory}
        sft.run(from_dict(sft.Config, {**settings, **more, **output}), log)
    assert [line for line in log.said if line.startswith("memory: micro-batches of 12, 1 a step;")]
    assert losses(tmp_path / "roomy") == pytest.approx(losses(tmp_path / "free"), abs=1e-6)


def test_a_budget_that_is_too_small_says_what_one_row_takes(settings: dict[str, Any]) -> None:
    log = Saying()
    with pytest.raises(ConfigError, match=r"memory=50 MB is too little: a single row takes .*\.jsonl:\d+, "):
        sft.run(from_dict(sft.Config, {**settings, "memory": "50MB"}), log)
    assert not (Path(settings["output"]) / "last").exists()


@pytest.mark.slow
def test_a_budget_between_one_row_and_all_is_kept(long_rows: dict[str, Any], tmp_path: Path) -> None:
    """The budget lies between what 1 and 12 rows take; what the run takes in the end must be below it."""
    given = [f"{key}={value}" for key, value in (long_rows | {"output": tmp_path / "a"}).items()]

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        """Run in a process of its own: one that ran before keeps memory that it was given."""
        line = [sys.executable, "-m", "apps.cli", "run", "sft", *given, *more]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    told = json.loads(call("--dry-run", "--json").stdout)
    peaks = {size["rows"]: size["peak"] for size in told["sizes"]}
    assert peaks[1] < peaks[12]
    budget = (peaks[4] + peaks[8]) / 2 / 0.95
    shown = call(f"memory={budget / 1e6:.0f}MB")
    (line,) = [line for line in (shown.stderr + shown.stdout).splitlines() if "micro-batches of" in line]
    assert 1 <= int(line.split("micro-batches of")[1].split()[0].rstrip(",")) < 12

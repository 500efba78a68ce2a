"""The recipe dpo computes the same however a step is cut, cached, shared, interrupted or spread."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes import dpo
from studio.data import load_data, write_jsonl
from studio.training.preference_data import joined
from studio.training.tracking import read_metrics
from tests.recipes.preferred import Saying, assert_same, losses, run, said, settings_of, write_preferences

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import sys; from recipes import dpo; from studio.config import load; from studio.log import PlainLog\n"
    "dpo.run(load(dpo.Config, overrides=sys.argv[1:]), PlainLog(every=0))"
)


@pytest.fixture
def settings(tiny: Callable[[str], Path], plain_data: Path, tmp_path: Path) -> dict[str, Any]:
    return settings_of(tiny("qwen_omni"), write_preferences(plain_data), tmp_path / "run")


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_eight_at_once_are_one_by_one_eight_times(
    loss: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folders = []
    for batch, accumulate in ((8, 1), (1, 8), (3, 3)):
        size = {"batch_size": batch, "accumulate": accumulate, "output": str(tmp_path / f"{batch}")}
        folders.append(run(settings, loss=loss, **size).folder)
    assert_same(folders[0], folders[1], within=2e-5)
    assert losses(folders[2]) != losses(folders[0])  # nine to a step: other steps


def test_neither_the_cache_nor_any_shortcut_changes_the_losses(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    logs = [Saying(), Saying(), Saying()]
    folders = [run(settings, log, output=str(tmp_path / f"{at}")).folder for at, log in enumerate(logs[:2])]
    rows = [row for split in ("train", "test") for row in load_data(settings["data"], split)]
    count = int(logs[0].found("reference").split()[1])
    assert len(rows) < count <= 2 * len(rows)  # what is said twice of the same is computed once
    assert (
        logs[0].found("reference") == f"reference: {count} log-probabilities computed, 0 found in the cache"
    )
    assert (
        logs[1].found("reference") == f"reference: 0 log-probabilities computed, {count} found in the cache"
    )
    assert_same(folders[0], folders[1], within=0)
    # Another base, or another answer, is another reference.
    other = run(settings, logs[2], output=str(tmp_path / "2"), precision="bf16").folder
    assert logs[2].found("reference").startswith(f"reference: {count} log-probabilities computed")
    assert losses(other) != losses(folders[0])
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "new"))
    plain = dict.fromkeys(
        ("tower_cache", "prefetch", "packing", "products", "last_layer", "chunked_loss"), False
    )
    slow = run(settings, output=str(tmp_path / "plain"), speed=plain).folder
    assert_same(folders[0], slow, within=2e-5)
    packed = run(settings, output=str(tmp_path / "packed"), speed={"packing": True}).folder
    assert_same(folders[0], packed, within=2e-5)


@pytest.mark.parametrize(
    ("name", "learns"),
    [("qwen_omni", "vision audio"), ("qwen_omni", "audio"), ("smolvlm", "vision"), ("qwen2_audio", "audio")],
)
def test_towers_that_learn_run_once_for_both_answers(
    name: str, learns: str, tiny: Callable[[str], Path], data: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = data(name, 6, 2)
    rows = [
        dataclasses.replace(row, turns=row.prompt, chosen=said("yes"), rejected=said("no not at all"))
        for row in load_data(folder, "train")
    ]
    write_jsonl(folder / "votes.jsonl", rows)
    log = Saying()
    given = {
        "model": str(tiny(name)), "data": str(folder / "votes.jsonl"), "eval_data": None, "max_steps": 3,
        "towers": dict.fromkeys(("llm", *learns.split()), "lora"), "votes": {"hold_out": 0},
    }  # fmt: skip
    shared = run(settings, log, **given).folder
    assert log.found("shared_media").startswith("shared_media: on")

    def plainly(model: Any, gauge: Any, pairs: Any, collate: Any, *_: Any, **__: Any) -> Any:
        return joined(collate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "share_media", plainly)
        plain = run(settings, output=str(tmp_path / "plain"), **given).folder
    assert_same(shared, plain, within=2e-5)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"max_steps": 24, "save_every": 3, "evaluate.every": 5, "adapter.dropout": 0.1, "adapter.r": 4}
    flat = {key: value for key, value in settings.items() if key not in ("adapter", "optimiser")}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [f"{key}={value}" for key, value in {**flat, **more, "output": killed}.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(losses(killed)) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # SIGKILL: no handler runs
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert 8 <= len(losses(killed)) < 24
    nested = {
        "max_steps": 24, "save_every": 3, "evaluate": {"every": 5}, "adapter": {"dropout": 0.1, "r": 4},
        "optimiser": {},
    }  # fmt: skip
    log = Saying()
    run(settings, log, output=str(killed), **nested)
    assert log.found("going on after step")
    run(settings, output=str(whole), **nested)
    assert_same(killed, whole, within=1e-6)
    assert [row["step"] for row in read_metrics(killed) if "loss" in row] == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "strategy"), [("dpo", "ddp"), ("kto", "ddp"), ("kto", "fsdp"), ("dpo", "fsdp")]
)
def test_two_processes_compute_what_one_does(
    loss: str, strategy: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    alone = run(settings, loss=loss, batch_size=4, accumulate=2).folder
    flat = {k: v for k, v in settings.items() if k not in ("adapter", "optimiser", "output", "accumulate")}
    more = {"adapter.r": 4, "optimiser.warmup": 1, "output": tmp_path / "two", "loss": loss, "accumulate": 1}
    words = [f"{k}={v}" for k, v in {**flat, **more, "speed.strategy": strategy}.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRIPTYCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "apps.cli", "run", "dpo", *words, "--nproc", "2"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for key in ("loss", "margin", "accuracy", "kl", "eval_loss", "eval_margin"):
        assert losses(tmp_path / "two", key) == pytest.approx(losses(alone, key), abs=2e-5)

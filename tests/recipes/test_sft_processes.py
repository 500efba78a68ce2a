"""The recipe sft by several processes, over gloo: what one process computes, and never a hang."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from recipes import sft
from studio import config
from studio.errors import ConfigError, LostProcess, TriptychError
from studio.launch import together
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.encoding import Encoded
from studio.training.rounds import company
from studio.training.shards import ShardWriter
from studio.training.tracking import read_metrics

ROOT = Path(__file__).resolve().parents[2]
#: Nothing takes that long unless it hangs.
LIMIT = 120


def command(settings: dict[str, Any], *more: str, **changes: Any) -> list[str]:
    """Return the command line for settings; a group is a mapping."""
    words = []
    for key, value in {**settings, **changes}.items():
        words += (
            [f"{key}.{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [f"{key}={value}"]
        )
    return [sys.executable, "-m", "apps.cli", "run", "sft", *words, *more]


def start(line: list[str], more: dict[str, str] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def two(settings: dict[str, Any], **changes: Any) -> str:
    """Train by two processes and return what they said."""
    process = start(command(settings, "--nproc", "2", **changes))
    try:
        said = process.communicate(timeout=LIMIT)[1]
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


def one(settings: dict[str, Any], **changes: Any) -> Path:
    return sft.run(config.from_dict(sft.Config, {**settings, **changes}), QuietLog()).folder


def figures(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def assert_same_run(folder: Path, other: Path, within: float = 1e-5) -> None:
    """Losses of steps and evaluations, norms of gradients, and what was saved are the same."""
    for key in ("loss", "eval_loss"):
        assert figures(folder, key) == pytest.approx(figures(other, key), abs=within)
    norms = figures(other, "grad_norm")
    assert figures(folder, "grad_norm") == pytest.approx(norms, rel=1e-4)
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (folder / name).exists() == (other / name).exists()
        if (folder / name).exists():
            ours, theirs = load_file(folder / name), load_file(other / name)
            assert ours.keys() == theirs.keys()
            for key in theirs:
                # AdamW's first steps are as long for a gradient of rounding errors as for any other.
                torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=2e-3)


@pytest.fixture(scope="session")
def apart(plain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return rows of which the short ones are only text, and the long ones have pictures and sounds.

    A step's rows are cut by length: the first of two processes gets the short half.
    """
    folder = tmp_path_factory.mktemp("apart")
    shutil.copytree(plain_data / "media", folder / "media")
    rows = (plain_data / "train.jsonl").read_text().splitlines()
    media = [row for row in rows if '"image"' in row and '"audio"' in row]
    text = [row for row in rows if '"image"' not in row and '"audio"' not in row]
    assert (len(text), len(media)) == (3, 4)
    others = (plain_data / "test.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([*text[:2], *media]) + "\n")
    (folder / "test.jsonl").write_text("\n".join([*text[2:], *others[:2]]) + "\n")
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_process_with_text_only_and_one_with_media_train_all_towers_together(
    strategy: str, settings: dict[str, Any], apart: Path, tmp_path: Path
) -> None:
    """LoRA on every tower; 6 rows in steps of 4: the last step is smaller, and evaluation is uneven."""
    rules = {"vision": "lora", "audio": "lora", "projector": "lora"}
    both = {**settings, "data": str(apart), "eval_data": str(apart), "towers": rules, "max_steps": 4}
    two(both, output=tmp_path / "two", batch_size=1, accumulate=2, speed={"strategy": strategy})
    assert_same_run(tmp_path / "two", one(both, output=str(tmp_path / "one"), batch_size=4))


def test_all_weights_cut_among_processes_learn_as_in_one_with_tied_and_frozen_ones(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """FSDP2 with gradients clipped, a frozen tower, tied tables, weight decay and a moving average."""
    full: dict[str, Any] = {
        **settings, "method": "full", "towers": {"vision": "frozen"}, "eval_data": settings["data"],
        "optimiser": {"weight_decay": 0.01, "ema": 0.9, "clip": 0.5, "warmup": 1},
    }  # fmt: skip
    two(full, output=tmp_path / "two", batch_size=4, speed={"strategy": "fsdp"})
    assert_same_run(tmp_path / "two", one(full, output=str(tmp_path / "one"), batch_size=8))


def wait_for_steps(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 2 * LIMIT
    while len(figures(folder)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_of_two_killed_ends_both_and_one_alone_goes_on_to_the_same_end(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """The state of a model that was cut goes on where it is whole, with as many samples a step."""
    killed = tmp_path / "killed"
    more: dict[str, Any] = {
        **settings, "max_steps": 60, "save_every": 4, "batch_size": 4, "speed": {"strategy": "fsdp"},
    }  # fmt: skip
    process = start(command(more, "--nproc", "2", output=killed))
    wait_for_steps(killed, 6, process)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 2, said
    assert said.splitlines()[-1] == (
        "triptych: process 1 of 2 was killed (SIGKILL); the same command goes on from the last saved state"
    )
    record = read_run(killed)
    assert record is not None
    assert record.state == "running"
    assert len(figures(killed)) < 60

    one(more, output=str(killed))
    whole = one(more, output=str(tmp_path / "whole"), batch_size=8)
    assert figures(killed) == pytest.approx(figures(whole), abs=1e-4)
    assert len(figures(killed)) == 60


@pytest.mark.slow
def test_ctrl_c_stops_all_and_what_one_began_goes_on_in_two_and_cut(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more: dict[str, Any] = {**settings, "max_steps": 60, "batch_size": 4, "save_every": 7}
    alone = start(command(more, output=folder))
    wait_for_steps(folder, 9, alone)  # from a state that was saved, a step's samples stay as many
    alone.kill()
    alone.communicate()
    before = len(figures(folder))
    pair = start(command(more, "--nproc", "2", output=folder, speed={"strategy": "fsdp"}))
    wait_for_steps(folder, before + 2, pair)
    children = psutil.Process(pair.pid).children()
    pair.send_signal(signal.SIGINT)
    said = pair.communicate(timeout=LIMIT)[1]
    assert pair.returncode == 130, said
    assert "goes on from there" in said
    assert not psutil.wait_procs(children, timeout=10)[1]
    two(more, output=folder)
    whole = one(more, output=str(tmp_path / "whole"))
    assert figures(folder) == pytest.approx(figures(whole), abs=1e-4)
    assert len(figures(folder)) == 60


@pytest.mark.slow
def test_torchrun_starts_the_same_run_and_a_killed_process_ends_the_others(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = command(settings, output=tmp_path / "two", batch_size=2, max_steps=200, speed={"strategy": "fsdp"})
    process = start([*torchrun, "-m", *line[2:]])
    wait_for_steps(tmp_path / "two", 3, process)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode != 0
    assert "triptych: another of 2 processes is gone; the same command goes on" in said


@pytest.mark.slow
def test_machines_that_do_not_share_the_output_are_told_before_anything_is_computed(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Two launchers on this machine stand for two machines; the folder of one is not that of the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}

    def machines(*outputs: Path) -> list[str]:
        started = [
            start(
                command(settings, output=output),
                {**shared, "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "RANK": str(rank)},
            )
            for rank, output in enumerate(outputs)
        ]
        return [process.communicate(timeout=LIMIT)[1] for process in started]

    apart = machines(tmp_path / "a", tmp_path / "b" / "c")
    assert all("must be in a folder that all machines share" in said for said in apart)
    assert list(tmp_path.iterdir()) == []
    machines(tmp_path / "both", tmp_path / "both")
    assert len(figures(tmp_path / "both")) == settings["max_steps"]


CHILD = """
import sys, time
from studio.children import follow
kind, = follow()
if kind == "mistaken":
    print("triptych: rows.jsonl:7: the answer is empty", file=sys.stderr)
    sys.exit(2)
time.sleep(60)
"""


def test_the_sentence_of_another_process_is_told_and_none_outlives_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(os.environ)
    children: list[psutil.Process] = []

    def fail(kind: str, error: Exception, *, kill: bool = False) -> None:
        with together(2, "a_child", [kind]):
            assert os.environ["WORLD_SIZE"] == "2"
            children.extend(c for c in psutil.Process().children() if "a_child" in c.cmdline())
            if kill:
                children[-1].kill()
            raise error

    broken = RuntimeError("Connection closed by peer")
    with pytest.raises(TriptychError, match=r"^rows.jsonl:7: the answer is empty$"):
        fail("mistaken", broken)
    with pytest.raises(ZeroDivisionError):  # which comes of nobody's end
        fail("patient", ZeroDivisionError())
    with pytest.raises(
        LostProcess, match=r"^process 1 of 2 was killed \(SIGKILL\); the same command goes on"
    ):
        fail("patient", broken, kill=True)
    assert not any(child.is_running() for child in children)
    assert dict(os.environ) == before


def test_rows_at_weight_nothing_make_all_processes_run_the_same_towers(tmp_path: Path) -> None:
    """Rows 0 to 3: text, shorter text, a picture, a picture and a sound."""
    shard, pixels, waves = ShardWriter(), {"pixels": torch.zeros(2)}, {"waves": torch.zeros(3)}
    for row, (length, media) in enumerate(((3, {}), (2, {}), (8, pixels), (9, pixels | waves))):
        ids = torch.arange(length)
        shard.add(row, {"input_ids": ids, "labels": ids, **media})
    shard.write(tmp_path / "rows.safetensors", {})
    data = Encoded([tmp_path / "rows.safetensors"], [1.0] * 4)
    assert company([0], [0, 1, 2], data) == [2]
    assert company([2], [0, 2, 3], data) == [3]
    assert company([0], [0, 2, 3], data) == [3]  # one row has both
    assert company([], [0, 1], data) == [1]  # the shorter
    assert company([3], [0, 1, 2, 3], data) == []


def test_what_is_wrong_with_the_number_of_processes_is_one_sentence(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from apps.cli import main

    def said(*line: str) -> str:
        assert main(["run", *line]) == 2
        return capsys.readouterr().err

    words = command(settings)[5:]
    assert "nproc must be a whole number >= 1, not 0" in said("sft", *words, "--nproc", "0")
    assert "curate runs in one process; leave --nproc out" in said("curate", "data=x", "--nproc", "2")
    assert "unknown" in said("sft", *words, "speed.strategy=fdsp")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="asks for FSDP: launch without it, and give the strategy as speed"):
        one(settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "has started 2 processes already; leave --nproc out" in said("sft", *words, "--nproc", "2")
    assert not Path(settings["output"]).exists()


def test_deepspeed_is_asked_for_by_name_and_told_what_to_do(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from studio.training import zero

    made = zero.settings(clip=0.5)
    assert made["zero_optimization"] == {"stage": 1}
    assert made["gradient_clipping"] == 0.5
    assert made["gradient_accumulation_steps"] == 1  # the loop says which micro-batch is the last
    assert not {"optimizer", "scheduler", "fp16", "bf16"} & set(made)  # these are ours
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"not installed; pip install 'triptych\[deepspeed\]', or use fsdp"):
        one(settings, speed={"strategy": "deepspeed"})
    assert not Path(settings["output"]).exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_learns_as_one_process_and_another_strategy_goes_on(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    rules = {"vision": "lora", "audio": "lora", "projector": "lora"}
    more: dict[str, Any] = {**settings, "towers": rules, "max_steps": 30, "save_every": 4}
    folder, zero = tmp_path / "run", {"strategy": "deepspeed"}
    pair = command(more, "--nproc", "2", output=folder, batch_size=2, accumulate=2, speed=zero)
    started = start(pair)
    wait_for_steps(folder, 6, started)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=LIMIT)[1]
    assert started.returncode == 130, said
    assert "deepspeed cannot go on from a saved state" in start(pair).communicate(timeout=LIMIT)[1]
    one(more, output=str(folder), batch_size=2, accumulate=2)
    whole = one(more, output=str(tmp_path / "whole"), batch_size=8)
    assert figures(folder) == pytest.approx(figures(whole), abs=1e-4)

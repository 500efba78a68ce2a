"""The recipe sft with other methods than LoRA: they resume exactly, and saving memory changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes import sft
from studio.assets import find_data
from studio.config import from_dict, load
from studio.errors import ConfigError, TriptychError
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.tracking import read_metrics
from studio.types import Run


class Interrupting(QuietLog):
    """Sends this process a signal after some steps of training, and remembers what was said."""

    def __init__(self, after: int = 0) -> None:
        self.left, self.name = after, ""
        self.said: list[str] = []

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.name = name

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.name == "training" and self.left:
            self.left -= n
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    def say(self, message: str) -> None:
        self.said.append(message)


def run(settings: dict[str, Any], log: Any = None, **more: Any) -> Run:
    return sft.run(from_dict(sft.Config, {**settings, **more}), log or QuietLog())


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("method", ["adalora", "pissa", pytest.param("ia3", marks=pytest.mark.slow)])
def test_a_method_goes_on_bit_for_bit_where_it_was_stopped(
    method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    options = {"tinit": 2, "tfinal": 2, "deltaT": 1} if method == "adalora" else {}
    more: dict[str, Any] = {
        "method": method, "max_steps": 10,
        "adapter": {"r": None if method == "ia3" else 4, "options": options},
    }  # fmt: skip
    whole = run(settings, output=tmp_path / "whole", **more).folder
    with pytest.raises(KeyboardInterrupt):
        run(settings, Interrupting(6), output=tmp_path / "cut", **more)
    cut = run(settings, output=tmp_path / "cut", **more).folder
    assert losses(cut) == losses(whole)
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    if method == "adalora":  # ranks were given away, so the modules' differ or are fewer than they began with
        assert {len(value) for name, value in one.items() if "lora_A" in name} != {6}


def test_a_base_in_four_bits_is_trained_on_evaluated_and_told(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    more: dict[str, Any] = {"precision": "nf4", "eval_data": settings["data"], "max_steps": 4}
    whole = run(settings, output=tmp_path / "whole", **more)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Interrupting(2), output=tmp_path / "cut", **more)
    assert losses(run(settings, output=tmp_path / "cut", **more).folder) == losses(whole.folder)
    record = read_run(whole.folder)
    assert record is not None
    assert record.towers["llm"]["weights"] == "nf4"
    note = json.loads((whole.folder / "adapter" / "triptych.json").read_text())
    assert note["quantised"]["kind"] == "nf4"
    assert all(sides[1] % 64 == 0 for sides in note["quantised"]["modules"].values())
    with pytest.raises(ConfigError, match="precision=int8 freezes the language model's matrices"):
        run(settings, output=tmp_path / "refused", method="full", precision="int8")
    assert not (tmp_path / "refused").exists()


def test_a_run_tells_what_learns_and_refuses_what_cannot(settings: dict[str, Any], tmp_path: Path) -> None:
    log = Interrupting()
    towers = {
        "vision": "lora",
        "projector": "full",
        "audio": {"precision": "bf16"},
        "llm": {"lora": {"r": 2}},
    }
    done = run(settings, log, towers=towers, max_steps=2)
    record = read_run(done.folder)
    assert record is not None
    assert [record.towers[tower]["rule"] for tower in towers] == ["lora", "full", "frozen", "lora"]
    assert record.towers["audio"]["weights"] == "bfloat16"
    assert record.towers["llm"]["adapter_r"] == 2
    assert sum(row["learning"] for row in record.towers.values()) == done.metrics["trainable"]
    assert any(line.split()[:2] == ["projector", "full"] for line in log.said)
    for more, sentence in (
        ({"method": "lorra"}, r"unknown method 'lorra'; did you mean 'lora'"),
        ({"method": "prefix_tuning"}, "method=prefix_tuning does not work here"),
        ({"towers": {"llm": "frozen"}}, "every tower is frozen"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            run(settings, output=tmp_path / "refused", **more)
    assert not (tmp_path / "refused").exists()


def test_checkpointing_changes_no_loss_and_noise_does(settings: dict[str, Any], tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 3, "adapter": {"dropout": 0.1}}
    plain = run(settings, output=tmp_path / "plain", **more)
    less = run(settings, output=tmp_path / "less", speed={"checkpointing": True}, **more)
    assert losses(less.folder) == pytest.approx(losses(plain.folder), abs=1e-6)
    noisy = run(settings, output=tmp_path / "noisy", optimiser={"neftune": 5.0}, **more)
    assert abs(losses(noisy.folder)[0] - losses(plain.folder)[0]) > 1e-4
    plus = run(settings, output=tmp_path / "plus", optimiser={"loraplus": 16.0}, **more)
    assert losses(plus.folder)[0] == losses(plain.folder)[0]
    assert losses(plus.folder)[1:] != losses(plain.folder)[1:]


def test_a_run_goes_on_from_an_adapter_on_new_data(
    settings: dict[str, Any], data: Any, tiny: Any, tmp_path: Path
) -> None:
    first = run(settings, output=tmp_path / "first", towers={"vision": "lora"}, max_steps=3)
    plain = {"adapter": {"start": str(first.folder)}, "output": tmp_path / "second"}
    more = {**settings, "data": str(data("qwen_omni", 6, 2)), "lr": 1e-3, **plain, "max_steps": 2}
    second = run(more)
    before, after = weights(first.folder), weights(second.folder)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any("visual" in name for name in moved)  # a frozen tower keeps what the adapter has there
    record = read_run(second.folder)
    assert record is not None
    assert "adapter.start" in record.inputs
    assert record.towers["vision"]["learning"] == 0

    other = tmp_path / "other"
    shutil.copytree(first.folder / "adapter", other)
    note = json.loads((other / "triptych.json").read_text())
    (other / "triptych.json").write_text(json.dumps(note | {"base_fingerprint": "0" * 64}))
    renamed = load_file(other / "adapter_model.safetensors")
    shutil.copytree(first.folder / "adapter", tmp_path / "renamed")
    save_file(
        {name.replace("language_model", "text_model"): t for name, t in renamed.items()},
        tmp_path / "renamed" / "adapter_model.safetensors",
    )
    for start, towers, sentence in (
        (other, {}, r"was made for .* \(000000000000\), not for this one"),
        (tmp_path / "renamed", {}, "does not fit the model"),
        (tmp_path / "nowhere", {}, "holds no adapter"),
        (first.folder, {"audio": "lora"}, "holds nothing of the tower 'audio', which is to learn"),
    ):
        changed = {"adapter": {"start": str(start)}, "towers": towers, "output": tmp_path / "refused"}
        with pytest.raises(TriptychError, match=sentence):
            run(more, **changed)
        early = start in (other, tmp_path / "nowhere")  # told before a row is looked at
        assert (tmp_path / "refused").exists() is not early
        shutil.rmtree(tmp_path / "refused", ignore_errors=True)
    with pytest.raises(ConfigError, match="start brings r, alpha, dropout and options of its own"):
        run(more, adapter={"start": str(first.folder), "r": 8})
    with pytest.raises(ConfigError, match="is of the kind LORA, which method=ia3 is not"):
        run(more, method="ia3", output=tmp_path / "refused")


@pytest.mark.slow
def test_the_preset_for_few_examples_learns_what_the_others_are_like(tmp_path: Path) -> None:
    """Eight of the shipped handwriting, with the shipped base: what was not seen gets better all the way."""
    folder = tmp_path / "few"
    shutil.copytree(find_data("handwriting"), folder)
    for name, count in (("train", 8), ("test", 20)):
        rows = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(rows[:: len(rows) // count][:count]), encoding="utf-8")
    config = load(
        sft.Config,
        preset="few_shot",
        presets=sft.PRESETS,
        overrides=[
            f"data={folder}",
            f"eval_data={folder}",
            f"output={tmp_path / 'run'}",
            "evaluate.answers=0",
        ],
    )
    done = sft.run(config, QuietLog())
    seen = [row["eval_loss"] for row in read_metrics(done.folder) if "eval_loss" in row]
    assert min(seen) < 0.6 * seen[0]
    assert seen[-1] < 1.05 * min(seen)

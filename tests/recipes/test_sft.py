"""The recipe sft on real tiny models, pictures and sounds: learning, equivalence, resuming, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes import sft
from studio import families, plugins
from studio.adapters import load_adapter
from studio.config import from_dict, load
from studio.data import load_data
from studio.errors import ConfigError, TriptychError
from studio.families import detect
from studio.generate import answers
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.loss import TokenLoss
from studio.training.tracking import read_metrics
from studio.types import Run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import sys; from recipes import sft; from studio.config import load; from studio.log import PlainLog\n"
    "sft.run(load(sft.Config, overrides=sys.argv[1:]), PlainLog(every=0))"
)
Data = Callable[..., Path]


def run(settings: dict[str, Any], log: Any = None, **more: Any) -> Run:
    return sft.run(from_dict(sft.Config, {**settings, **more}), log or QuietLog())


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same(one: Path, other: Path, within: float) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=within)
    a, b = adapter(one), adapter(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=within)


class Saying(QuietLog):
    """Remembers what was said, and sends this process a signal after some steps."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.said: list[str] = []
        self.left = interrupt_after
        self.name = ""

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.name = name

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.name == "training" and self.left is not None:
            self.left -= n
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_run_leaves_a_folder_that_says_what_was_done(settings: dict[str, Any], tmp_path: Path) -> None:
    done = run(settings, eval_data=settings["data"])
    folder = done.folder
    assert {entry.name for entry in folder.iterdir()} == {
        "run.json", "metrics.jsonl", "README.md", "adapter", "last",
        "report.html", "report.json", "curves.png", "answers.jsonl",
    }  # fmt: skip
    record = read_run(folder)
    assert record is not None
    assert record.state == "finished"
    assert record.metrics == done.metrics
    assert set(record.inputs) == {"model", "data", "eval_data"}
    assert load(sft.Config, folder) == from_dict(sft.Config, {**settings, "eval_data": settings["data"]})
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert set(rows[0]) == {
        "step", "loss", "lr", "grad_norm", "samples_per_s", "tokens_per_s", "seconds", "waited",
    }  # fmt: skip
    note = json.loads((folder / "adapter" / "triptych.json").read_text())
    assert note["base_fingerprint"] == record.inputs["model"]
    card = (folder / "README.md").read_text()
    assert all(
        word in card for word in (settings["model"], record.inputs["data"][:16], "eval_loss", "## Use")
    )

    # The same again is known to be done; other settings are not mixed into it.
    log = Saying()
    before = (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    again = run(settings, log, eval_data=settings["data"])
    assert again.metrics == done.metrics
    assert "is finished" in log.said[0]
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"holds another run: lr 0\.1 \(was 0\.005\)"):
        run(settings, eval_data=settings["data"], lr=0.1)
    assert read_run(folder) == record


@pytest.mark.parametrize("name", plugins.names("families"))
def test_every_family_is_fine_tuned_by_lora(
    name: str, tiny: Callable[[str], Path], data: Data, settings: dict[str, Any]
) -> None:
    base = tiny(name)
    done = run(settings, model=str(base), data=str(data(name, 6, 2)), max_steps=3)
    model, _ = families.family(name).load(base)
    weights = {path: p.clone() for path, p in model.named_parameters()}
    model = load_adapter(model, done.folder / "adapter")
    merged = dict(model.merge_and_unload().named_parameters())
    assert any(not torch.equal(merged[path], weights[path]) for path in weights)


def test_full_training_learns_the_answers_by_heart(settings: dict[str, Any], tiny: Any) -> None:
    """The whole way: from files to a model that answers; the answers differ by picture, sound and text."""
    done = run(
        settings, method="full", max_steps=110, batch_size=13, lr=1e-2, save_every=200,
        towers={"vision": "frozen"}, **{"optimiser.weight_decay": 0.01},
    )  # fmt: skip
    folder = done.folder / "model"
    assert losses(done.folder)[-1] < 0.1
    family = detect(folder)
    loaded = family.load(folder)
    samples = load_data(settings["data"], split="train")
    found = answers(loaded, family, samples, max_new_tokens=12)
    right = sum(answer == sample.answer for answer, sample in zip(found, samples, strict=True))
    assert right >= 12
    base = dict(family.load(tiny("qwen_omni")).model.named_parameters())
    same = {name for name, p in loaded.model.named_parameters() if torch.equal(p, base[name])}
    frozen = {name for name in base if name.startswith("model.visual") and "merger" not in name}
    assert same == frozen | {"model.audio_tower.audio_bos_eos_token.weight"}  # which no thinker uses
    assert json.loads((folder / "triptych.json").read_text())["family"] == "qwen_omni"


def test_accumulating_micro_batches_changes_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    for size, accumulate in ((8, 1), (4, 2), (2, 4), (1, 8)):
        run(settings, output=str(tmp_path / f"{size}x{accumulate}"), batch_size=size, accumulate=accumulate)
    whole = losses(tmp_path / "8x1")
    assert len(set(whole)) == 4
    for other in ("4x2", "2x4", "1x8"):
        # fp32 sums in another order: about 1e-6 of a loss near 5.
        assert losses(tmp_path / other) == pytest.approx(whole, abs=1e-5)
        # AdamW hides a gradient of the wrong scale; its norm does not.
        norms = losses(tmp_path / "8x1", "grad_norm")
        assert losses(tmp_path / other, "grad_norm") == pytest.approx(norms, rel=1e-3)


def test_the_seed_decides_everything(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"adapter.dropout": 0.2, "max_steps": 3}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed + ord(name))  # what happened before does not matter
        run(settings, output=str(tmp_path / name), seed=seed, **more)
    assert_same(tmp_path / "a", tmp_path / "b", within=0)
    assert losses(tmp_path / "c") != losses(tmp_path / "a")


def test_evaluation_does_not_disturb_training(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"adapter.dropout": 0.2, "max_steps": 5, "evaluate.every": 2}
    run(settings, output=str(tmp_path / "without"), **more)
    run(settings, output=str(tmp_path / "with"), eval_data=settings["data"], **more)
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    evaluated = [row["step"] for row in read_metrics(tmp_path / "with") if "eval_loss" in row]
    assert evaluated == [2, 4, 5]


def test_the_model_on_disk_is_that_of_the_best_evaluation(settings: dict[str, Any]) -> None:
    """This learning rate rises until the loss does too; what is kept must be the step from before."""
    more = {"eval_data": settings["data"], "evaluate.every": 1, "method": "full", "lr": 0.5}
    more["optimiser.warmup"] = 6
    done = run(settings, max_steps=6, **more)
    found = losses(done.folder, "eval_loss")
    best = min(found)
    step = found.index(best) + 1
    assert step < 6
    assert done.metrics["eval_loss"] == pytest.approx(best)
    assert done.metrics["best_step"] == step

    family = families.family("qwen_omni")
    model, processor = family.load(done.folder / "model")
    items = [family.encode(processor, s, True) for s in load_data(settings["data"], split="test")]
    batch = family.collate(processor, items, "right")
    with torch.no_grad():
        total = TokenLoss(model, torch.device("cpu"))(model, batch, [1.0] * len(items))
    assert (total / (batch["labels"] != -100).sum()).item() == pytest.approx(best, rel=1e-5)


def arguments(settings: dict[str, Any], **more: Any) -> list[str]:
    return [f"{key}={value}" for key, value in {**settings, **more}.items()]


def start(settings: dict[str, Any], environment: dict[str, str] | None = None, **more: Any) -> Any:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments(settings, **more)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_run_goes_on_as_if_nothing_had_happened(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"max_steps": 40, "save_every": 3, "eval_data": settings["data"]}
    more |= {"evaluate.every": 5, "adapter.dropout": 0.1}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(settings, output=killed, **more)
    deadline = time.monotonic() + 300
    while len(losses(killed)) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # SIGKILL: no handler runs
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = losses(killed)
    assert 8 <= len(before) < 40

    log = Saying()
    run(settings, log, output=str(killed), **more)
    (said,) = [line for line in log.said if line.startswith("going on after step")]
    resumed = int(said.split()[4])
    assert 0 < resumed <= len(before)
    assert resumed % 3 == 0
    run(settings, output=str(whole), **more)
    assert_same(killed, whole, within=1e-6)
    assert losses(killed, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-6)
    assert [row["step"] for row in read_metrics(killed) if "loss" in row] == list(range(1, 41))


def test_ctrl_c_saves_says_so_and_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    log = Saying(interrupt_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, log, max_steps=6)
    folder = Path(settings["output"])
    assert log.said[-1] == "stopped after step 4 of 6; the same command goes on from there"
    record = read_run(folder)
    assert record is not None
    assert record.state == "stopped"
    log = Saying()
    run(settings, log, max_steps=6, resume=True)
    assert "going on after step 4 of 6" in log.said
    run(settings, output=str(tmp_path / "whole"), max_steps=6)
    assert_same(folder, tmp_path / "whole", within=0)


def test_starting_over_leaves_nothing_of_the_old_run(settings: dict[str, Any]) -> None:
    run(settings, max_steps=2)
    folder = Path(settings["output"])
    run(settings, max_steps=3, method="full", resume=False)
    assert not (folder / "adapter").exists()
    assert len(losses(folder)) == 3
    with pytest.raises(ConfigError, match="holds no run to go on with"):
        run(settings, output=str(folder / "other"), resume=True)


def test_a_loss_that_is_not_a_number_stops_the_run(settings: dict[str, Any]) -> None:
    with pytest.raises(TriptychError, match=r"step \d: the loss is (nan|inf).* a lower lr"):
        run(settings, lr=1e20, save_every=1, max_steps=8, **{"optimiser.clip": 0})
    folder = Path(settings["output"])
    weights = load_file(folder / "last" / "weights.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert not (folder / "adapter").exists()


def test_all_settings_out_of_range_are_told_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(settings, lr=0, batch_size=-1, **{"adapter.dropout": 1.0, "optimiser.clip": -1})
    assert all(
        name in str(caught.value)
        for name in ("lr must", "batch_size must", "adapter.dropout must", "optimiser.clip must")
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"towers": {"visoin": "lora"}}, "unknown tower 'visoin'; did you mean 'vision'"),
        ({"tracker": "tensorbord"}, "unknown tracker 'tensorbord'"),
        ({"model": "nowhere/at/all"}, "there is no model 'nowhere/at/all'"),
        ({"data": "nothing"}, "there is no data set 'nothing'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    settings: dict[str, Any], more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TriptychError, match=sentence):
        run(settings, **more)
    assert not Path(settings["output"]).exists()


def test_two_processes_give_the_losses_of_one(settings: dict[str, Any], tmp_path: Path) -> None:
    """DDP over gloo. 13 samples in batches of 8: the last batch is uneven, some have no picture or sound."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more: dict[str, Any] = {"max_steps": 4, "eval_data": settings["data"]}
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    towers = {"towers.vision": "lora", "towers.audio": "lora"}
    processes = [
        start(
            settings, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            output=tmp_path / "two", batch_size=2, accumulate=2, **towers, **{**more, "max_steps": 4},
        )
        for rank in range(2)
    ]  # fmt: skip
    texts = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    rules = {"vision": "lora", "audio": "lora"}
    run(settings, output=str(tmp_path / "one"), batch_size=8, towers=rules, **more)
    # Gradients are averaged in another order, and four AdamW steps magnify the last digit.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    norms = losses(tmp_path / "one", "grad_norm")
    assert losses(tmp_path / "two", "grad_norm") == pytest.approx(norms, rel=1e-3)
    assert losses(tmp_path / "two", "eval_loss") == pytest.approx(
        losses(tmp_path / "one", "eval_loss"), abs=1e-4
    )
    assert len(losses(tmp_path / "two")) == 4


def test_presets_load_and_smoke_is_short() -> None:
    for name in sft.PRESETS:
        load(sft.Config, preset=name, presets=sft.PRESETS)
    assert sft.PRESETS["smoke"]["max_steps"] <= 10
    assert len(dataclasses.fields(sft.Config)) <= 25

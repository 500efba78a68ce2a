"""Adversarial training in the recipe sft: on pixels and features, whatever learns, and resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes import dpo, sft
from studio import families
from studio.config import from_dict
from studio.data import load_data
from studio.errors import ConfigError
from studio.log import QuietLog
from studio.training.adversary import PICTURES, SOUNDS, adversary_of
from studio.training.loss import TokenLoss
from studio.training.settings import Optimiser
from studio.training.tracking import read_metrics
from studio.types import Run

Data = Callable[..., Path]
ROBUST = {"robust_eps": 8.0, "robust_sound": 0.1, "robust_steps": 2}


class Stopping(QuietLog):
    """Interrupts a run, as Ctrl-C does, after two steps."""

    def __init__(self) -> None:
        self.left = 2

    def advance(self, n: int = 1, **figures: float) -> None:
        if "samples_per_s" in figures:
            self.left -= n
            if self.left == 0:
                raise KeyboardInterrupt


class Saying(QuietLog):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def run(settings: dict[str, Any], log: Any = None, **more: Any) -> Run:
    return sft.run(from_dict(sft.Config, {**settings, **more}), log or QuietLog())


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


def test_media_are_changed_within_their_room_so_that_the_loss_grows(
    tiny: Callable[[str], Path], plain_data: Path
) -> None:
    family = families.family("qwen_omni")
    loaded = family.load(tiny("qwen_omni"))
    gauge = families.gauge(tiny("qwen_omni"))
    rows = [family.encode(loaded.processor, row, True) for row in load_data(plain_data, split="train")[:6]]
    batch = family.collate(loaded.processor, rows, "right")
    data: Any = _Rows(rows)
    loss = TokenLoss(loaded.model, torch.device("cpu"))
    config = SimpleNamespace(optimiser=Optimiser(**ROBUST))
    processes: Any = SimpleNamespace(strategy="ddp")
    adversary = adversary_of(config, loaded.model, loss, gauge, data, QuietLog(), processes)
    assert adversary is not None
    weights = [1.0] * len(rows)
    torch.manual_seed(0)
    hard = adversary(batch, weights)
    with torch.no_grad():
        before, after = (float(loss(loaded.model, each, weights)) for each in (batch, hard))
    loss.close()
    assert after > before
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert {key for key in batch if hard[key] is not batch[key]} == {PICTURES, SOUNDS}
    deviation = torch.tensor(gauge.processor.image_processor.image_std)
    most = 8 / 255 / float(deviation.min())
    assert 0 < float((hard[PICTURES] - batch[PICTURES]).abs().max()) <= most + 1e-6
    assert 0 < float((hard[SOUNDS] - batch[SOUNDS]).abs().max()) <= 0.1 + 1e-6
    bottom, top = (adversary.rooms[PICTURES].low, adversary.rooms[PICTURES].high)
    assert bool(((hard[PICTURES] >= bottom - 1e-6) & (hard[PICTURES] <= top + 1e-6)).all())


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self, row: int) -> Any:
        return self._rows[row].keys()


@pytest.mark.parametrize("towers", [{}, {"vision": "lora", "audio": "lora"}])
def test_it_trains_frozen_and_learning_towers_and_without_a_budget_changes_nothing(
    settings: dict[str, Any], tmp_path: Path, towers: dict[str, str]
) -> None:
    log = Saying()
    plain = run(settings, output=tmp_path / "plain", towers=towers, max_steps=2)
    robust = run(settings, log, output=tmp_path / "robust", towers=towers, max_steps=2, optimiser=ROBUST)
    assert losses(robust.folder)[0] > losses(plain.folder)[0]
    assert "tower_cache: off; adversarial training changes media in every step" in log.said
    assert "adversary: pictures within 8 of 255, 2 steps each time" in log.said


def test_a_stopped_run_goes_on_to_the_same_losses(settings: dict[str, Any], tmp_path: Path) -> None:
    more: dict[str, Any] = {"optimiser": {**ROBUST, "warmup": 1}, "max_steps": 4, "save_every": 1}
    whole = run(settings, output=tmp_path / "whole", **more)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Stopping(), output=tmp_path / "cut", **more)
    again = run(settings, output=tmp_path / "cut", **more)
    assert losses(again.folder) == pytest.approx(losses(whole.folder), abs=1e-5)


def test_what_cannot_be_attacked_is_refused_in_one_sentence(
    settings: dict[str, Any], data: Data, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    heard = {**settings, "model": str(tiny("whisper")), "data": str(data("whisper", 4, 2))}
    with pytest.raises(ConfigError, match=r"robust_eps changes pictures .* and no row of data has any"):
        run(heard, output=tmp_path / "none", optimiser={"robust_eps": 8})
    with pytest.raises(ConfigError, match=r"optimiser\.robust_eps must be at least 0"):
        run(settings, optimiser={"robust_eps": -1})
    with pytest.raises(ConfigError, match=r"optimiser\.robust_eps is for the recipe sft"):
        dpo.check(from_dict(dpo.Config, {"optimiser": {"robust_eps": 8}}))


@pytest.mark.slow
def test_it_raises_accuracy_under_pgd_against_plain_training(tmp_path: Path) -> None:
    from apps.attacks import under_attack
    from apps.choices import Fleet
    from studio.adversarial import Attack
    from studio.assets import find_data, find_model
    from studio.variants import Engine

    settings = {
        "model": "nano-omni", "data": "handwriting", "batch_size": 16, "lr": 3e-3, "max_steps": 300,
        "towers": {"llm": "lora", "vision": "lora", "projector": "lora"}, "optimiser": {"warmup": 0.1},
    }  # fmt: skip
    expert = run(settings, output=tmp_path / "expert")
    more = {"adapter": {"start": str(expert.folder)}, "max_steps": 80, "batch_size": 8, "lr": 1e-3}
    run(settings, output=tmp_path / "plain", **more)
    against = {"warmup": 0.1, "robust_eps": 8.0, "robust_steps": 2}
    run(settings, output=tmp_path / "robust", optimiser=against, **more)
    variants = {name: tmp_path / name / "adapter" for name in ("plain", "robust")}
    fleet = Fleet([Engine(find_model("nano-omni"), variants)])
    rows = {"handwriting": load_data(find_data("handwriting"), split="test")[:120]}
    attack = Attack(name="pgd", on="picture", eps=8, steps=5)
    told = under_attack(fleet, rows, [attack], ["exact_match"], QuietLog(), out=tmp_path / "evaluation")
    plain, robust = (next(one for one in told if one["variant"] == name) for name in variants)
    assert robust["attacked"]["low"] > plain["attacked"]["high"]

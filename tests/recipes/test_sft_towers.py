"""The recipe sft with frozen towers computed once, and with batches made ahead: the same run, only faster."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes import sft
from studio.config import from_dict
from studio.log import QuietLog
from studio.training.tracking import read_metrics


class Saying(QuietLog):
    """Remembers what was said and begun, and sends this process a signal after some steps."""

    def __init__(self, interrupt_after: int = 0) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []
        self.left = interrupt_after

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.stages.append(name)

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.stages[-1] == "training" and self.left:
            self.left -= n
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def run(settings: dict[str, Any], folder: Path, log: Saying | None = None, **more: Any) -> Path:
    given = {**settings, "eval_data": settings["data"], "max_steps": 8, **more, "output": str(folder)}
    sft.run(from_dict(sft.Config, given), log or Saying())
    return folder


def assert_same(one: Path, other: Path, within: float) -> None:
    for key in ("loss", "eval_loss", "grad_norm"):
        a, b = ([row[key] for row in read_metrics(folder) if key in row] for folder in (one, other))
        assert a == pytest.approx(b, abs=within, rel=within)
        assert a
    a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=within)


def test_run_is_the_same_with_and_without(settings: dict[str, Any], tmp_path: Path) -> None:
    log = Saying()
    fast = run(settings, tmp_path / "fast", log)
    told = [said for said in log.said if said.startswith("tower_cache: features of")]
    assert [line.partition(" ready")[0] for line in told] == [
        "tower_cache: features of 12 media (image), features of 8 media (audio)"
    ]
    slow = {"tower_cache": False, "prefetch": False}
    plain = Saying()
    run(settings, tmp_path / "plain", plain, speed=slow)
    assert not [said for said in plain.said if "tower_cache" in said]
    # fp32 sums of the towers in another order; AdamW makes a tiny gradient's sign a whole step.
    assert_same(fast, tmp_path / "plain", within=1e-4)
    run(settings, tmp_path / "alone", Saying(), speed={"prefetch": False})
    assert_same(fast, tmp_path / "alone", within=0)


def test_stopped_run_goes_on_with_the_features_there_are(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run(settings, tmp_path / "whole")
    first = Saying(interrupt_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", first)
    again = Saying()
    parts = run(settings, tmp_path / "parts", again)
    assert any(said.startswith("going on after step") for said in again.said)
    assert not [stage for stage in (*first.stages, *again.stages) if stage.startswith("features")]
    assert_same(whole, parts, within=0)


def test_towers_are_not_run_after_the_features_are_there(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings, tmp_path / "first", max_steps=1)
    ran: list[str] = []
    log = Saying()
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

    plain = Qwen2_5OmniVisionEncoder.forward

    def noted(self: Any, *args: Any, **more: Any) -> Any:
        ran.append("training" if log.stages[-1] == "training" else "gate")
        return plain(self, *args, **more)

    monkeypatch.setattr(Qwen2_5OmniVisionEncoder, "forward", noted)
    run(settings, tmp_path / "second", log, evaluate={"answers": 0})
    assert set(ran) == {"gate"}


def test_rows_that_augmentation_changes_run_their_towers_and_held_out_ones_do_not(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    log = Saying()
    speed = [{"speed": {"factor": [0.9, 1.1]}}]
    fast = run(settings, tmp_path / "fast", log, augment=speed)
    assert any("media (image)" in said for said in log.said)
    plain = run(settings, tmp_path / "plain", augment=speed, speed={"tower_cache": False})
    assert_same(fast, plain, within=1e-4)

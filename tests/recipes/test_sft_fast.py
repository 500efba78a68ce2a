"""Fast paths of the recipe `sft`: none changes what is learned, and each is taken, or held back, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes import sft
from studio.config import from_dict
from studio.errors import ConfigError
from studio.log import QuietLog
from studio.training.tracking import read_metrics

OFF = {
    "tower_cache": False, "prefetch": False, "packing": False, "products": False, "last_layer": False,
    "chunked_loss": False, "fused_layers": False, "keep_memory": False, "places": False,
}  # fmt: skip


class Told(QuietLog):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, message: str) -> None:
        self.sentences.append(message)

    def about(self, name: str) -> list[str]:
        return [sentence for sentence in self.sentences if sentence.startswith(f"{name}: ")]


def trained(settings: dict[str, Any], folder: Path, **speed: Any) -> tuple[list[float], Any, Told]:
    """Return losses, adapter and sentences of a run."""
    log = Told()
    sft.run(from_dict(sft.Config, {**settings, "output": str(folder), "speed": speed}), log)
    losses = [row["loss"] for row in read_metrics(folder) if "loss" in row]
    return losses, load_file(folder / "adapter" / "adapter_model.safetensors"), log


@pytest.mark.parametrize(
    "speed",
    [
        {"packing": True, "last_layer": True, "products": True},
        {"last_layer": True, "products": True, "fused_layers": True, "keep_memory": True, "places": True},
        {"batch_tokens": 150, "packing": True},
        {"batch_tokens": 100, "tower_cache": True, "packing": True, "prefetch": True, "products": True},
    ],
)
def test_fast_is_plain(settings: dict[str, Any], tmp_path: Path, speed: dict[str, Any]) -> None:
    settings["evaluate"] = {"every": 2}
    settings["eval_data"] = settings["data"]
    settings["optimiser"] = {"warmup": 1, "clip": 0}
    expected, weights, _ = trained(settings, tmp_path / "plain", **OFF)
    found, learned, log = trained(settings, tmp_path / "fast", **(OFF | speed))
    for name in ("packing", "last_layer", "products", "fused_layers", "places", "tower_cache"):
        assert [sentence.startswith(f"{name}: on") for sentence in log.about(name)][:1] == (
            [True] if speed.get(name) else []
        ), log.sentences
    assert found == pytest.approx(expected, rel=1e-5)
    for name, value in weights.items():
        # AdamW's first steps are as long for a gradient of nearly nothing, whose last digits then count.
        torch.testing.assert_close(learned[name], value, rtol=0, atol=2e-4)


def test_a_family_that_cannot_be_packed_is_trained_as_it_is(
    settings: dict[str, Any], tiny: Callable[[str], Path], data: Callable[..., Path], tmp_path: Path
) -> None:
    for name, reason in (
        ("paligemma", "packing: off, because the loss differs by"),
        ("whisper", "packing: off, because the model is an encoder beside a decoder"),
    ):
        settings |= {"model": str(tiny(name)), "data": str(data(name, 6, 1)), "max_steps": 2}
        expected, _, _ = trained(settings, tmp_path / f"plain-{name}", **OFF)
        found, _, log = trained(settings, tmp_path / f"fast-{name}", **(OFF | {"packing": True}))
        assert found == expected
        assert len(log.about("packing")) == 1
        assert log.about("packing")[0].startswith(reason)


def test_tokens_of_a_micro_batch_cannot_be_negative(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"speed\.batch_tokens must be at least 0"):
        sft.run(from_dict(sft.Config, settings | {"speed": {"batch_tokens": -1}}), QuietLog())


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    expected, _, _ = trained(settings, tmp_path / "plain", **OFF)
    found, _, log = trained(settings, tmp_path / "fast", **(OFF | {"compile": True}))
    assert len(log.about("compile")) == 1  # on, or off with its reason where there is no compiler
    assert found == pytest.approx(expected, rel=1e-4)

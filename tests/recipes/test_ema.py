"""The moving average: its numbers, its place in a run, and going on with it to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes import sft
from studio.config import from_dict
from studio.errors import CheckpointError, ConfigError
from studio.log import QuietLog
from studio.training.ema import Average
from studio.training.tracking import read_metrics

Train = Callable[..., Path]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_the_average_follows_its_formula() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = Average(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 12):
        with torch.no_grad():
            model.weight.add_(step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.state(), {"weight": expected})


def test_the_model_is_as_it_was_after_the_average_stood_in_its_place() -> None:
    model = torch.nn.Linear(3, 2)
    average = Average(model, 0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.weight.mul_(3.0)
    after = model.weight.detach().clone()
    with average.in_place():
        assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight, after)


def test_averages_of_other_weights_are_refused() -> None:
    average = Average(torch.nn.Linear(3, 2), 0.9)
    with pytest.raises(CheckpointError, match="of other weights"):
        average.load({"weight": torch.zeros(2, 3)})


def test_a_decay_out_of_range_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.ema must be at least 0 and below 1, not 1"):
        sft.run(from_dict(sft.Config, {"optimiser": {"ema": 1}, "model": "none"}), QuietLog())


def test_the_average_is_what_a_run_keeps(train: Train, settings: dict[str, Any]) -> None:
    folder = train(settings, optimiser={"warmup": 1, "ema": 0.9}, save_every=1)
    kept, state = weights(folder), load_file(folder / "last" / "average.safetensors")
    last = load_file(folder / "last" / "weights.safetensors")
    for name, value in kept.items():
        inner = name.replace(".weight", ".default.weight")
        assert torch.equal(value, state[inner])
        assert not torch.equal(value, last[inner])


def test_an_interrupted_run_ends_with_the_same_average(
    train: Train, train_in_two_goes: Train, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"optimiser": {"warmup": 1, "ema": 0.9}, "eval_data": settings["data"], "save_every": 1}
    whole = train(settings, output=str(tmp_path / "whole"))
    cut = train_in_two_goes(settings, 3, output=str(tmp_path / "cut"))
    assert weights(cut).keys() == weights(whole).keys()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(cut).items())
    assert [row["eval_loss"] for row in read_metrics(cut) if "eval_loss" in row] == [
        row["eval_loss"] for row in read_metrics(whole) if "eval_loss" in row
    ]


def test_a_run_stops_early_when_evaluations_get_no_better(settings: dict[str, Any], tmp_path: Path) -> None:
    # A rate this large makes the loss worse from the first steps on.
    settings |= {
        "eval_data": settings["data"], "max_steps": 12, "lr": 2.0, "schedule": "constant",
        "optimiser": {"warmup": 0, "clip": 0}, "evaluate": {"every": 1, "patience": 2}, "save_every": 50,
    }  # fmt: skip
    done = sft.run(from_dict(sft.Config, settings), QuietLog())
    values = [row["eval_loss"] for row in read_metrics(done.folder) if "eval_loss" in row]
    best = values.index(min(values))
    assert done.metrics["steps"] == len(values) == best + 3 < 12
    assert done.metrics["best_step"] == best + 1
    assert done.metrics["eval_loss"] == pytest.approx(min(values))

    # What a kill after the last save leaves goes on to the same end, without another step.
    (done.folder / "run.json").write_text(
        (done.folder / "run.json").read_text().replace('"finished"', '"running"')
    )
    again = sft.run(from_dict(sft.Config, settings), QuietLog())
    assert again.metrics == pytest.approx(done.metrics)
    assert len(read_metrics(done.folder)) == 2 * len(values)

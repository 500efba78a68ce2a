"""The learning-rate finder: planted curves, a real training, and a run that stays as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.cli import main
from recipes import find_lr, sft
from studio.config import from_dict
from studio.errors import ConfigError, TriptychError
from studio.files import folder_hash
from studio.log import QuietLog
from studio.training.lr_curve import diverged, smooth, suggest

RATES = [10 ** (-6 + 6 * at / 99) for at in range(100)]


def planted(rate: float) -> float:
    """Return a loss that falls most steeply at 1e-3, is lowest near 2e-2 and explodes beyond it."""
    return 1 + 2 / (1 + (rate / 1e-3) ** 2) + (rate / 0.1) ** 3


def test_the_planted_rates_are_found() -> None:
    found = suggest(RATES, [planted(rate) for rate in RATES], 0.0)
    assert found.steepest == pytest.approx(1e-3, rel=0.2)
    lowest = min(RATES, key=planted)
    assert found.tenth == pytest.approx(lowest / 10)
    assert found.lr == min(found.steepest, found.tenth)
    assert 0.1 < (found.end or 0) < 0.3


def test_smoothing_forgets_noise_but_not_where_the_valley_is() -> None:
    noisy = [planted(rate) * (1 + 0.05 * math.sin(37 * at)) for at, rate in enumerate(RATES)]
    found = suggest(RATES, noisy, 0.8)
    assert 3e-4 < found.steepest < 6e-3


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0] * 100, "never fell"),
        ([1.0 + at for at in range(100)], "diverged after"),
        ([1.0, float("nan")], "diverged after 1 steps"),
        ([1.0 + 0.01 * at for at in range(100)], "never fell"),
    ],
)
def test_losses_that_suggest_nothing_are_said_to(losses: list[float], told: str) -> None:
    with pytest.raises(TriptychError, match=told):
        suggest(RATES[: len(losses)], losses, 0.0)


def test_divergence_is_seen_at_once_and_noise_is_not_divergence() -> None:
    assert diverged([2.0, 1.0, 1.2, 0.9, 5.0, 9.0], 0.0) == 4
    assert diverged([2.0, 1.0, 1.2, 0.9, 2.0], 0.0) is None
    assert diverged([2.0, float("inf")], 0.9) == 1
    assert smooth([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])


@pytest.fixture
def training(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("lr", "max_steps")}


def test_the_finder_ends_with_a_rate_and_leaves_the_run_alone(
    training: dict[str, Any], tmp_path: Path
) -> None:
    real = sft.run(from_dict(sft.Config, {**training, "max_steps": 2}), QuietLog()).folder
    before = folder_hash(real)
    config = from_dict(
        find_lr.Config,
        {"settings": training, "output": str(tmp_path / "lr"), "steps": 60, "highest": 10.0, "beta": 0.7},
    )
    done = find_lr.run(config, QuietLog())
    assert folder_hash(real) == before
    told = json.loads((done.folder / "find_lr.json").read_text())
    assert 1e-6 < done.metrics["lr"] < 1
    assert done.metrics["lr"] == told["lr"] == min(told["steepest"], told["tenth"])
    assert told["rates"][0] == pytest.approx(1e-6)
    assert told["rates"] == sorted(told["rates"])
    assert len(told["rates"]) == len(told["losses"]) == done.metrics["steps"]
    assert {entry.name for entry in done.folder.iterdir()} == {"find_lr.json", "find_lr.png", "run.json"}
    with Image.open(done.folder / "find_lr.png") as found:
        assert found.format == "PNG"

    # The rate that was found trains better than one a hundred times smaller.
    losses = [
        sft.run(
            from_dict(sft.Config, {**training, "lr": lr, "max_steps": 8, "output": str(tmp_path / f"{lr}")}),
            QuietLog(),
        ).metrics["loss"]
        for lr in (done.metrics["lr"], done.metrics["lr"] / 100)
    ]
    assert losses[0] < losses[1]


def test_the_command_takes_the_line_of_the_training_to_come(
    training: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    line = [f"{key}={value}" for key, value in training.items()]
    line = [part for part in line if not part.startswith(("adapter", "optimiser"))]
    assert main(["run", "sft", "--find-lr", *line, "adapter.r=4"]) == 0
    told = capsys.readouterr()
    assert "lr=" in told.err
    assert Path(f"{training['output']}-lr", "find_lr.json").is_file()
    assert not Path(training["output"]).exists()
    assert main(["run", "domains", "--find-lr"]) == 2
    assert "--find-lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lowest": 1.0, "highest": 0.1}, "lowest < highest"),
        ({"steps": 3}, "steps must be at least 8"),
        ({"settings": {"lrr": 1}}, "unknown setting 'lrr'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_lr.run(from_dict(find_lr.Config, wrong), QuietLog())

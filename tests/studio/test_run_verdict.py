"""The verdict on a run: curves with a planted defect get its name, with or without noise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from studio.training.verdict import judge

Curve = Callable[[float], float]


def rows(
    train: Curve, held: Curve | None = None, *, steps: int = 300, noise: float = 0.0
) -> list[dict[str, Any]]:
    """Return the metrics of a run; the curves are functions of the share of the run that is done."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        done = step / steps
        made.append({"step": step, "loss": train(done) * (1 + noise * draw.gauss(0, 1))})
        if held is not None and step % (steps // 10) == 0:
            made.append({"step": step, "eval_loss": held(done) * (1 + 0.1 * noise * draw.gauss(0, 1))})
    return made


def saturating(x: float) -> float:
    return 0.4 + 2.5 * math.exp(-12 * x)


def to_nothing(x: float) -> float:
    return 2.9 * math.exp(-9 * x)


PLANTED: dict[str, tuple[str, Curve, Curve | None]] = {
    "a held-out loss that turns round": ("overfits", to_nothing, lambda x: 0.5 + 2 * (x - 0.4) ** 2),
    "a held-out loss that rises at the end": (
        "overfits", to_nothing, lambda x: saturating(x) + 0.2 * max(0.0, x - 0.6),
    ),
    "both still falling": ("underfits", lambda x: 3 - 1.5 * x, lambda x: 3.1 - 1.5 * x),
    "nothing learned": ("underfits", lambda x: 3 - 0.05 * x, lambda x: 3 - 0.05 * x),
    "nothing learned, nothing held out": ("underfits", lambda x: 3 - 0.05 * x, None),
    "both level": ("fits", saturating, lambda x: saturating(x) + 0.05),
    "both near nothing": ("fits", to_nothing, lambda x: to_nothing(x) + 0.001 + 0.002 * x),
    "an explosion": ("unstable", lambda x: saturating(x) + (20 * (x - 0.5) if x > 0.5 else 0), saturating),
    "no held-out rows, level": ("unclear", saturating, None),
    "no held-out rows, falling": ("underfits", lambda x: 3 - 2 * x, None),
}  # fmt: skip


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_curve_gets_its_name(name: str, noise: float) -> None:
    kind, train, held = PLANTED[name]
    assert judge(rows(train, held, noise=noise)).kind == kind


def test_overfitting_is_told_with_the_best_step_and_what_may_help() -> None:
    told = judge(rows(to_nothing, lambda x: 0.5 + 2 * (x - 0.4) ** 2)).sentence
    assert "lowest at step 120 (0.5)" in told
    assert "rose to 1.22" in told
    assert "fewer epochs" in told


def test_a_gap_without_a_rise_fits_and_is_told() -> None:
    found = judge(rows(to_nothing, lambda x: 0.6 + 2 * math.exp(-12 * x)))
    assert found.kind == "fits"
    assert "above the training loss" in found.sentence


def test_a_few_steps_are_no_verdict() -> None:
    assert judge(rows(saturating, None, steps=5)).kind == "unclear"
    assert judge([]).kind == "unclear"


def test_one_evaluation_is_compared_with_the_beginning() -> None:
    made = [{"step": step, "loss": 3 * 0.9**step} for step in range(1, 21)]
    assert judge([*made, {"step": 20, "eval_loss": 0.5}]).kind == "underfits"

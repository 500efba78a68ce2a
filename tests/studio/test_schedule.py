"""The learning rate's curves: torch's and transformers' own where they have them, and what all must keep."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.training.schedule import Schedule, Shape, factor, warmup_steps

KINDS = get_args(Schedule)


def curve(kind: Schedule, total: int, warmup: int = 0, **shape: float) -> list[float]:
    return [factor(step, total, warmup, kind, Shape(**shape)) for step in range(total)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@given(total=st.integers(1, 300), warmup=st.integers(0, 400), floor=st.floats(1e-6, 0.9))
def test_the_factor_is_above_zero_and_at_most_one(
    kind: Schedule, total: int, warmup: int, floor: float
) -> None:
    values = curve(kind, total, min(warmup, total), floor=floor)
    assert all(0 < value <= 1 + 1e-12 for value in values)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("one_cycle", "ramp")])
def test_the_warm_up_rises_by_equal_steps_to_the_peak(kind: Schedule) -> None:
    assert curve(kind, 20, 4)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("kind", ["linear", "cosine", "polynomial", "wsd"])
def test_what_decays_never_rises_after_the_warm_up_and_ends_near_its_floor(kind: Schedule) -> None:
    for floor in (0.0, 0.1):
        values = curve(kind, 200, 10, floor=floor)[9:]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(floor, abs=0.02)


@pytest.mark.parametrize("kind", ["linear", "cosine", "cosine_restarts", "inverse_sqrt"])
def test_the_curves_are_transformers_own(kind: str) -> None:
    from transformers import (
        get_cosine_schedule_with_warmup,
        get_cosine_with_hard_restarts_schedule_with_warmup,
        get_inverse_sqrt_schedule,
        get_linear_schedule_with_warmup,
    )

    peers = {
        "linear": lambda o: get_linear_schedule_with_warmup(o, 5, 60),
        "cosine": lambda o: get_cosine_schedule_with_warmup(o, 5, 60),
        "cosine_restarts": lambda o: get_cosine_with_hard_restarts_schedule_with_warmup(o, 5, 60, 3),
        "inverse_sqrt": lambda o: get_inverse_sqrt_schedule(o, 5),
    }
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = peers[kind](optimiser)
    theirs = []
    for _ in range(60):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        peer.step()
    # Theirs begin a step of rate 0, which learns nothing; ours are one step ahead in the warm-up.
    ours = curve(kind, 60, 5, cycles=3)  # type: ignore[arg-type]
    assert ours[:5] == pytest.approx(theirs[1:6])
    if kind == "inverse_sqrt":
        assert ours[5:-1] == pytest.approx(theirs[6:])
    else:
        assert ours[5:] == pytest.approx(theirs[5:], abs=1e-12)


def test_one_cycle_is_torch_s_own() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=1.0, total_steps=50, pct_start=0.3, cycle_momentum=False
    )
    theirs = []
    for _ in range(50):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        peer.step()
    assert curve("one_cycle", 50, 15) == pytest.approx(theirs)


def test_restarts_come_back_to_the_peak_as_often_as_asked() -> None:
    values = curve("cosine_restarts", 80, 0, cycles=4)
    assert [step for step, value in enumerate(values) if value == 1.0] == [0, 20, 40, 60]


def test_wsd_is_stable_and_then_decays_over_its_cool_down() -> None:
    values = curve("wsd", 100, 10, cooldown=0.3)
    assert values[10:70] == [1.0] * 60
    assert values[70] < 1.0
    assert curve("wsd", 100, 10, cooldown=30) == values
    assert values[-1] == pytest.approx(1 - math.sqrt(30 / 31))


def test_polynomial_of_power_one_is_linear() -> None:
    assert curve("polynomial", 30, 3, power=1.0) == pytest.approx(curve("linear", 30, 3))


def test_the_ramp_rises_by_equal_ratios_from_its_floor_to_the_peak() -> None:
    values = curve("ramp", 11, 5, floor=1e-5)
    assert values[0] == pytest.approx(1e-5)
    assert values[-1] == 1.0
    ratios = [after / before for before, after in itertools.pairwise(values)]
    assert ratios == pytest.approx([10**0.5] * 10)


def test_constant_stays() -> None:
    assert curve("constant", 9) == [1.0] * 9
    assert warmup_steps(0.5, 9) == 5

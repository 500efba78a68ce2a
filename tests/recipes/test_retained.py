from __future__ import annotations

import numpy as np
import pytest

from recipes._retained import retained


def test_what_is_kept_is_the_share_of_what_the_experts_have() -> None:
    home = {"a": [1.0, 1.0, 1.0, 0.0], "b": [1.0] * 4}
    found = retained({"a": [1.0, 0.0, 0.0, 0.0], "b": [1.0, 1.0, 1.0, 0.0]}, home)
    assert found.domains["a"].value == pytest.approx(1 / 3)
    assert found.domains["b"].value == pytest.approx(0.75)
    assert found.mean.value == pytest.approx((1 / 3 + 0.75) / 2)
    assert found.worst.value == pytest.approx(1 / 3)


def test_a_merge_that_is_its_expert_keeps_all_without_doubt() -> None:
    rows = {"a": [1.0, 0.0, 1.0], "b": [1.0, 1.0, 0.0]}
    mean = retained(rows, rows).mean
    assert (mean.value, mean.low, mean.high) == (1.0, 1.0, 1.0)


def test_an_expert_that_has_nothing_makes_no_share() -> None:
    found = retained({"a": [0.0, 1.0], "b": [1.0, 1.0]}, {"a": [0.0, 0.0], "b": [1.0, 1.0]})
    assert found.domains["a"].value is None
    assert found.domains["b"].value == 1.0
    assert found.mean.value is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, inside, runs = np.random.default_rng(0), 0, 300
    for run in range(runs):
        home = {d: (draw.random(150) < 0.9).astype(float) for d in "ab"}
        values = {d: home[d] * (draw.random(150) < 0.7) for d in "ab"}
        mean = retained(
            {d: v.tolist() for d, v in values.items()}, {d: h.tolist() for d, h in home.items()}, run
        ).mean
        assert mean.low is not None
        assert mean.high is not None
        inside += mean.low <= 0.7 <= mean.high
    # 95 % of 300 with four standard errors of 1.26 %
    assert 0.90 <= inside / runs <= 0.995

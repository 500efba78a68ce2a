from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes._retained import retained
from studio.eval_report.evaluation import read_evaluation
from studio.eval_report.retention import homes, retention
from tests.studio.evaluations import WANTED, write_evaluation


def test_what_is_kept_is_the_share_of_what_the_experts_have() -> None:
    home = {"a": [1.0, 1.0, 1.0, 0.0], "b": [1.0] * 4}
    found = retained({"a": [1.0, 0.0, 0.0, 0.0], "b": [1.0, 1.0, 1.0, 0.0]}, home)
    assert found.domains["a"].value == pytest.approx(1 / 3)
    assert found.domains["b"].value == pytest.approx(0.75)
    assert found.mean.value == pytest.approx((1 / 3 + 0.75) / 2)
    assert found.worst.value == pytest.approx(1 / 3)


def test_a_merge_that_answers_as_its_experts_keeps_all_and_few_rows_may_have_missed_a_fault() -> None:
    few, many = {"a": [1.0, 0.0, 1.0], "b": [1.0, 1.0, 0.0]}, {"a": [1.0] * 500, "b": [1.0, 0.0] * 250}
    for rows, least in ((few, 0.0), (many, 0.99)):
        mean = retained(rows, rows).mean
        assert (mean.value, mean.high) == (1.0, 1.0)
        assert mean.low is not None
        assert least < mean.low < 1.0


def test_shares_are_those_of_the_report(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    right = {"a": (draw.random(60) < 0.8).tolist(), "b": (draw.random(60) < 0.9).tolist()}
    merged = {d: (np.array(own) & (draw.random(60) < 0.7)).tolist() for d, own in right.items()}
    asked = {d: {d: right[d], "mix": merged[d]} for d in right}
    texts = {
        d: {name: [WANTED if ok else "no" for ok in own] for name, own in each.items()}
        for d, each in asked.items()
    }
    evaluation = read_evaluation(write_evaluation(tmp_path / "eval", texts))
    told = retention(evaluation, "exact_match", homes(evaluation, "exact_match", {}, ["a", "b"]), ["mix"], 3)
    own = retained(
        {d: [float(ok) for ok in merged[d]] for d in merged},
        {d: [float(ok) for ok in right[d]] for d in right},
        3,
    )
    for kept in told:
        same = own.mean if kept.domain == "mean" else own.domains[kept.domain]
        assert (kept.value, kept.low, kept.high) == (same.value, same.low, same.high)


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

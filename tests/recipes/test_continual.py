"""Going on with an adapter on new data: replay that is exact and seeded, anchors that pull, and resuming."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from studio.errors import ConfigError
from studio.runs import read_run
from studio.training.anchor import Anchor
from studio.training.continual import draw
from studio.training.tracking import read_metrics

Data = Callable[..., Path]
Train = Callable[..., Path]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def moved(one: Path, other: Path) -> float:
    """Return the distance of two adapters' factors."""
    a, b = adapter(one), adapter(other)
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


@pytest.fixture
def first(train: Train, settings: dict[str, Any], tmp_path: Path) -> Path:
    return train(settings, output=str(tmp_path / "first"))


@pytest.fixture
def second(settings: dict[str, Any], data: Data, first: Path, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a run that goes on from the first one on other data."""
    other = data(train=22, test=3)
    rows = (other / "train.jsonl").read_text().splitlines(keepends=True)
    (other / "train.jsonl").write_text("".join(rows[13:]))  # the first 13 are the old data
    return settings | {
        "data": str(other),
        "adapter": {"start": str(first)},
        "output": str(tmp_path / "second"),
    }


def test_rows_to_replay_come_in_rounds_in_which_each_stands_once() -> None:
    drawn = [draw(7, 3, 5, epoch) for epoch in range(14)]
    assert all(len(rows) == 3 for rows in drawn)
    assert set(Counter(row for rows in drawn for row in rows).values()) == {6}
    assert drawn == [draw(7, 3, 5, epoch) for epoch in range(14)]
    assert drawn != [draw(7, 3, 6, epoch) for epoch in range(14)]
    assert sorted(draw(4, 4, 0, 3)) == [0, 1, 2, 3]
    assert Counter(draw(2, 5, 0, 0)).total() == 5


def test_an_anchor_adds_the_gradient_of_its_penalty() -> None:
    model = torch.nn.Linear(3, 2)
    fisher = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    for weights in (None, fisher):
        anchor = Anchor(model, 0.7, weights)
        old = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        model.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        anchor.pull()
        ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        penalty = sum(
            (0.35 * (1 if weights is None else weights[name]) * (p - old[name]).square()).sum()
            for name, p in model.named_parameters()
        )
        (model(torch.ones(1, 3)).sum() + penalty).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(ours[name], parameter.grad)


def test_a_run_goes_on_from_an_adapter_and_replays_the_share_that_was_asked_for(
    train: Train, settings: dict[str, Any], second: dict[str, Any]
) -> None:
    more = {"continual": {"replay": settings["data"], "replay_share": 0.25}, "max_steps": None, "epochs": 2}
    folder = train(second, **more)
    record = read_run(folder)
    assert record is not None
    assert set(record.inputs) >= {"data", "continual.replay", "adapter.start"}
    assert record.data["continual.replay"]["rows"] == 13
    # 9 new rows and 3 old ones are an epoch: 3 steps of 4.
    assert [row["step"] for row in read_metrics(folder) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    state = json.loads((folder / "last" / "state.json").read_text())
    assert state["samples"] == 24


def test_replaying_is_training_on_both_sets(
    train: Train, settings: dict[str, Any], second: dict[str, Any]
) -> None:
    """An epoch as one step has the loss of one set that holds the new and the drawn old rows."""
    one_step = {"max_steps": 1, "batch_size": 12}
    more = {"continual": {"replay": settings["data"], "replay_share": 0.25}}
    mixed = train(second, **one_step, **more)
    new = (Path(second["data"]) / "train.jsonl").read_text().splitlines()
    old = (Path(settings["data"]) / "train.jsonl").read_text().splitlines()
    both = Path(second["data"]) / "both.jsonl"  # the media of both sets have the same names and contents
    both.write_text("\n".join([*new, *(old[row] for row in draw(13, 3, 0, 0))]))
    one = train(second, **one_step, data=str(both), output=second["output"] + "-one")
    assert read_metrics(one)[0]["loss"] == pytest.approx(read_metrics(mixed)[0]["loss"], abs=1e-5)


@pytest.mark.parametrize("anchor", ["l2", "ewc"])
def test_a_stronger_anchor_keeps_the_weights_nearer_to_where_they_began(
    train: Train, anchor: str, settings: dict[str, Any], second: dict[str, Any], first: Path, tmp_path: Path
) -> None:
    distances = []
    for strength in (None, 1.0, 100.0):
        continual = {"replay": settings["data"], "replay_share": 0.2}
        if strength:
            continual |= {"anchor": anchor, "strength": strength, "fisher_rows": 4}
        folder = train(second, continual=continual, max_steps=8, output=str(tmp_path / f"{strength}"))
        distances.append(moved(folder, first))
    assert distances[0] > distances[1] > distances[2] > 0
    assert (tmp_path / "1.0" / "fisher.safetensors").is_file() == (anchor == "ewc")


def test_the_fisher_information_has_mean_one_and_is_kept_for_a_run_that_goes_on(
    train: Train, train_in_two_goes: Train, settings: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    more = {
        "continual": {"replay": settings["data"], "anchor": "ewc", "strength": 5.0, "fisher_rows": 3},
        "save_every": 1, "max_steps": 5,
    }  # fmt: skip
    whole = train(second, **more)
    fisher = load_file(whole / "fisher.safetensors")
    values = torch.cat([value.flatten() for value in fisher.values()])
    assert float(values.mean()) == pytest.approx(1.0, rel=1e-4)
    assert float(values.min()) >= 0
    cut = train_in_two_goes(second, 3, **more, output=str(tmp_path / "cut"))
    assert moved(cut, whole) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"replay_share": 1.0}, r"continual\.replay_share must be above 0 and below 1"),
        ({"anchor": "ewc"}, r"give continual\.replay"),
        ({"strength": 0}, r"continual\.strength must be more than 0"),
        ({"replay": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    train: Train, wrong: dict[str, Any], told: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        train(settings, continual=wrong)
    assert isinstance(caught.value, ConfigError) or "nowhere" in wrong.values()
    assert not Path(settings["output"]).exists()

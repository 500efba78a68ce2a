"""Positions on three axes, made once for each row: those that the model would have made of the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import plugins
from studio.families import family
from studio.training.loss import TokenLoss
from studio.training.places import Axes, Places
from tests.studio.gradients import assert_same, gradients

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]
#: Families whose tokens have positions on three axes.
AXES = {"qwen_omni", "qwen_vl", "qwen3_omni"}


@pytest.mark.parametrize("name", plugins.names("families"))
def test_a_batch_with_its_positions_learns_the_same(tiny: Tiny, questions: Questions, name: str) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    assert bool(Axes(model)) == (name in AXES)
    if name not in AXES:
        return
    items = [kind.encode(processor, sample, True) for sample in questions(name, 5)]
    collate = partial(kind.collate, processor, side="right")
    loss, places = TokenLoss(model, torch.device("cpu")), Places(model, collate)
    weights = [1.0, 2.0, 0.0, 0.5, 1.0]
    plain = loss(model, collate(items), weights)
    expected = gradients(model, plain)
    for rows in (items, items):  # made, then found
        made = places(rows)
        fast = loss(model, made, weights)
        assert fast.item() == pytest.approx(plain.item(), rel=1e-5)
        assert_same(gradients(model, fast), expected)
    rule = Axes(model)
    seen = collate(items)["attention_mask"].bool()
    assert torch.equal(made["position_ids"][:, seen], rule(collate(items))[:, seen])


def test_positions_are_made_once_for_a_row_and_kept_within_limits(
    tiny: Tiny, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = family("qwen_omni")
    model, processor = kind.load(tiny("qwen_omni"), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions("qwen_omni", 4)]
    made: list[Any] = []
    own = Axes.__call__

    def told(self: Axes, batch: Any) -> Any:
        made.append(batch)
        return own(self, batch)

    monkeypatch.setattr(Axes, "__call__", told)
    places = Places(model, partial(kind.collate, processor, side="right"))
    for rows in (items, items[::-1], items[:1]):
        places(rows)
    assert len(made) == len(items)
    made.clear()
    places = Places(model, partial(kind.collate, processor, side="right"), kept=1)
    for rows in (items, items):
        places(rows)
    assert len(made) == 2 * len(items)

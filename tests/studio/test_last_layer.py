"""The last layer for labelled positions alone: the same losses and gradients, less to compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import plugins
from studio.families import family
from studio.training.fast_paths import _layers
from studio.training.loss import IGNORE, TokenLoss
from studio.training.packing import Packing
from tests.studio.gradients import assert_same, gradients

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]
CPU = torch.device("cpu")


def prepared(name: str, tiny: Tiny, questions: Questions) -> tuple[Any, list[Any], Any]:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 4)]
    return model, items, partial(kind.collate, processor, side="right")


@pytest.mark.parametrize("name", plugins.names("families"))
def test_every_family_learns_the_same(tiny: Tiny, questions: Questions, name: str) -> None:
    model, items, collate = prepared(name, tiny, questions)
    batch = collate(items)
    loss = TokenLoss(model, CPU)
    plain = loss(model, batch, [1.0] * 4)
    expected = gradients(model, plain)
    loss.close()
    last = _layers(model)[-1]
    fast = TokenLoss(model, CPU, last=last)
    other = fast(model, batch, [1.0] * 4)
    assert other.item() == pytest.approx(plain.item(), rel=1e-5)
    assert_same(gradients(model, other), expected)
    with torch.no_grad():  # outside of a loss nothing is skipped
        assert model(**batch).loss.item() * _count(batch) == pytest.approx(plain.item(), rel=1e-5)
    fast.close()
    assert not any("forward" in vars(part) for part in last.modules())


def _count(batch: Any) -> int:
    labels = batch["labels"] if "decoder_input_ids" in batch else batch["labels"][:, 1:]
    return int((labels != IGNORE).sum())


def test_positions_without_a_label_are_skipped(tiny: Tiny, questions: Questions) -> None:
    model, items, collate = prepared("qwen_omni", tiny, questions)
    batch = collate(items)
    last = _layers(model)[-1]
    seen: dict[str, int] = {}
    watched = {"mlp": last.mlp.gate_proj, "key": last.self_attn.k_proj}
    for name, part in watched.items():

        def note(_: Any, args: Any, made: Tensor, name: str = name) -> None:
            seen[name] = made.numel() // made.shape[-1]

        part.register_forward_hook(note)
    loss = TokenLoss(model, CPU, last=last)
    loss(model, batch, [1.0] * 4)
    assert seen["mlp"] == _count(batch) < seen["key"] == batch["input_ids"].numel()


def test_layers_computed_again_in_the_backward_pass_skip_the_same(tiny: Tiny, questions: Questions) -> None:
    model, items, collate = prepared("qwen_omni", tiny, questions)
    batch = Packing(model, collate)(items)
    plain = TokenLoss(model, CPU)
    expected = gradients(model, plain(model, batch, [1.0] * 4))
    plain.close()
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    fast = TokenLoss(model, CPU, last=_layers(model)[-1])
    assert_same(gradients(model, fast(model, batch, [1.0] * 4)), expected)

"""Packed rows: the losses and gradients of padded ones, or the family is found out at start-up."""

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
from studio.training.loss import TokenLoss
from studio.training.packing import Packing, packing_pays

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]
CPU = torch.device("cpu")


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", plugins.names("families"))
def test_packed_is_unpacked(tiny: Tiny, questions: Questions, name: str) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 5)]
    collate = partial(kind.collate, processor, side="right")
    weights = [1.0, 2.0, 0.0, 0.5, 1.0]
    loss = TokenLoss(model, CPU)
    plain = loss(model, collate(items), weights)
    packed = loss(model, Packing(model, collate)(items), weights)
    print(name, plain.item(), packed.item())
    assert packed.item() == pytest.approx(plain.item(), rel=1e-5)

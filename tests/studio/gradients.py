"""What tests of fast paths compare: the gradients that a loss gives, by parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of ``loss`` alone, by the parameters' names."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Hold each gradient against the expected one, by the length of all of them."""
    assert got.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    for path, value in expected.items():
        assert (got[path] - value).norm() <= 1e-5 * whole, path

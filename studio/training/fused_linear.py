"""A linear layer with its LoRA as one step of a fused layer: forward, and all gradients by hand.

    y = x (W + s B A)^T + b        where many rows share the sum with the weight
    y = x W^T + b + s (x A^T) B^T  where few do

What does not learn gets no gradient computed. `studio.training.matmul` tells why the products are oneDNN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from studio.training.matmul import is_lora, plain_lora, product

#: How many of a projection's fields are tensors of the model: the first ones.
TENSORS = 4


class Projection(NamedTuple):
    """The tensors of a linear layer in one step: ``weight`` [N, K], ``bias`` [N], LoRA's ``a`` and ``b``.

    ``whole`` is W + s B A, or W where there is no LoRA, or None where they are multiplied one by one.
    """

    weight: Tensor
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scaling: float = 0.0
    whole: Tensor | None = None

    def summed(self, rows: int) -> Projection:
        """Return it with the sum of the weights, if that is less work for so many rows."""
        if self.a is None or self.b is None:
            return self._replace(whole=self.weight)
        n, k = self.weight.shape
        if n * k > rows * (n + 2 * k):
            return self
        return self._replace(whole=torch.addmm(self.weight, self.b, self.a, alpha=self.scaling))

    def forward(self, x: Tensor) -> Tensor:
        """Return what becomes of rows [M, K]: [M, N]."""
        if self.whole is not None:
            return product(x, self.whole, self.bias)
        assert self.a is not None
        assert self.b is not None
        made = product(x, self.weight, self.bias)
        return made.add_(product(product(x, self.a), self.b), alpha=self.scaling)

    def to_x(self, dy: Tensor) -> Tensor:
        """Return the gradient of the rows [M, K] from that of what became of them, [M, N]."""
        if self.whole is not None:
            return product(dy, self.whole.t())
        assert self.a is not None
        assert self.b is not None
        found = product(dy, self.weight.t())
        return found.add_(product(product(dy, self.b.t()), self.a.t()), alpha=self.scaling)

    def gradients(self, x: Tensor, dy: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients of those `TENSORS` that need one, from rows x [M, K] and dy [M, N]."""
        found: list[Tensor | None] = [None] * TENSORS
        if needs[0]:
            found[0] = product(dy.t(), x.t())
        if needs[1]:
            found[1] = dy.sum(0)
        if needs[2] and self.b is not None:
            found[2] = product(product(dy, self.b.t()).t(), x.t()).mul_(self.scaling)
        if needs[3] and self.a is not None:  # the smaller factor is the one that is copied
            found[3] = product(product(x, self.a).t(), dy.t()).mul_(self.scaling).t()
        return found


def projection(module: Any) -> Projection | None:
    """Return a linear layer's tensors, or None if it computes anything else than the formulas above."""
    if hooked(module):
        return None
    if type(module) is torch.nn.Linear:
        return Projection(module.weight, module.bias)
    if not is_lora(module) or hooked(module.base_layer):
        return None
    base = module.base_layer
    if module.disable_adapters and not module.merged:
        return Projection(base.weight, base.bias)
    name = plain_lora(module)
    if name is None:
        return None
    a, b = module.lora_A[name], module.lora_B[name]
    if hooked(a) or hooked(b):
        return None
    return Projection(base.weight, base.bias, a.weight, b.weight, module.scaling[name])


def hooked(module: torch.nn.Module) -> bool:
    """Return whether somebody looks at what goes into a module, or comes out of it."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)

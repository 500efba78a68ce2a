"""RegMean: the layer whose outputs are nearest to every model's on that model's own inputs (Jin et al. 2023).

Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv:2212.09849, section 3: minimise
sum_i |W X_i - W_i X_i|^2, solved by W = (sum_i W_i G_i) (sum_i G_i)^-1 with the Gram matrices G_i = X_i X_i^T
of few batches (`studio/statistics.py`, kind gram). What is no linear layer is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers._ops import PerModel, deltas, on_base, per_model
from mergers._place import NOWHERE, Place
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
#: Per model the matrix [columns, columns] of a tensor [rows, columns], or nothing.
STATISTICS = "gram"
#: Matrices [columns, columns] in float64 that are held at a time.
SQUARES = 5


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    offdiagonal: float = 0.9,
    ridge: float = 1e-6,
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * d`` with d the least-squares solution for the deltas.

    ``offdiagonal`` in [0, 1] is what the entries of G_i beside its diagonal are multiplied by (the paper's
    alpha; 1 is plain least squares, 0 weighs each input by its size). ``weight`` > 0 counts a model's inputs
    more often. ``ridge`` >= 0, in units of the mean diagonal of sum_i G_i, holds d at the weighted average
    where no model has inputs.
    """
    if not 0 <= offdiagonal <= 1:
        raise ConfigError(f"offdiagonal must lie in [0, 1], not {offdiagonal:g}")
    if ridge < 0:
        raise ConfigError(f"ridge must be at least 0, not {ridge:g}")
    weights = per_model(weight, len(tensors))
    if min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError("the weights of regmean must not be negative, and not all 0")
    parts = deltas(tensors, base)
    dtype, shape = parts[0].dtype, parts[0].shape
    average = torch.zeros_like(parts[0], dtype=torch.float64)
    for part, share in zip(parts, weights, strict=True):
        average.add_(part, alpha=share / sum(weights))
    grams = place.statistics
    if grams is None or len(shape) != 2 or not parts[0].numel():
        return on_base(average.to(dtype), base, scale)
    total = average.new_zeros(shape[1], shape[1])
    force = average.new_zeros(shape)
    for part, gram, share in zip(parts, grams, weights, strict=True):
        own = gram.double() * offdiagonal
        own.diagonal().copy_(gram.diagonal())
        own *= share
        total += own
        force += (part.double() - average) @ own
    level = float(total.diagonal().mean())
    if level <= 0:
        return on_base(average.to(dtype), base, scale)
    total.diagonal().add_(ridge * level)
    step = _least_squares(total, force) if ridge == 0 else _solve(total, force)
    return on_base((average + step).to(dtype), base, scale)


def _solve(total: Tensor, force: Tensor) -> Tensor:
    """Return ``force @ total^-1`` for a symmetric, positive definite matrix."""
    found: Tensor = torch.cholesky_solve(force.T, torch.linalg.cholesky(total)).T
    return found


def _least_squares(total: Tensor, force: Tensor) -> Tensor:
    """Return the same where the inputs may leave directions open; only processors have this driver."""
    found: Tensor = torch.linalg.lstsq(total.cpu(), force.T.cpu(), driver="gelsd").solution.T
    return found.to(force.device)

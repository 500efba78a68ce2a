"""WUDI: the delta that disturbs no task's own inputs, found from the deltas alone (Cheng et al. 2025).

Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors,
arXiv:2503.08099, section 4, eq. 9: minimise sum_i |(d - delta_i) delta_i^T|^2 / |delta_i|^2. The rows of
delta_i stand for the inputs that task i was trained on. OptMerge (Wei et al. 2025, arXiv:2505.19892,
section 3) uses the same loss for multimodal models and starts from the mean. The papers take 300 steps of
Adam; the loss is quadratic, so it is solved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mergers._matrix import merge_matrices
from mergers._ops import PerModel, one_of, per_model
from studio.errors import ConfigError

Start = Literal["sum", "mean"]
PRESETS: dict[str, dict[str, Any]] = {"paper": {"start": "sum"}}
INVARIANT = "both"
#: Matrices [columns, columns] in float64 that are held at a time.
SQUARES = 6


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    ridge: float = 1e-3,
    start: Start = "mean",
) -> Tensor:
    """Return ``base + scale * d`` with d the minimiser, near the sum or mean of the deltas.

    ``ridge`` > 0 is how strongly d is held at its start, in units of the mean eigenvalue of the tasks' summed
    ``delta^T delta / |delta|^2``: where no task has an opinion, d stays where it starts.
    """
    if ridge <= 0:
        raise ConfigError(f"ridge must be larger than 0, not {ridge:g}")
    one_of("start", start, Start)
    weights = per_model(weight, len(tensors))

    def combine(parts: list[Tensor]) -> Tensor:
        first = torch.stack(parts).mean(dim=0)
        if start == "sum":
            first = first * len(parts)
        columns = parts[0].shape[1]
        eye = torch.eye(columns, dtype=torch.float64, device=first.device)
        pull, force = torch.zeros_like(eye), torch.zeros_like(first, dtype=torch.float64)
        for part, factor in zip(parts, weights, strict=True):
            wide = part.double()
            size = float(wide.square().sum())
            if size:
                gram = wide.T @ wide * (factor / size)
                pull += gram
                force += (wide - first.double()) @ gram
        if not pull.any():
            return first
        level = ridge * float(pull.trace()) / columns
        step: Tensor = torch.linalg.solve(pull + level * eye, force, left=False)
        return first + step.to(first.dtype)

    return merge_matrices(tensors, base, combine, scale)

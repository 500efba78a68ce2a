"""Task arithmetic: the base plus the weighted sum of what each model learned (Ilharco et al. 2023).

Editing Models with Task Arithmetic, arXiv:2212.04089, section 2: tau_i = theta_i - theta_base,
theta = theta_base + scale * sum_i w_i tau_i. The paper finds scales of 0.3 to 0.4 best for
8 tasks (section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import Normalise, PerModel, add_up, deltas, on_base, one_of, per_model

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "mergekit": {}, "peft": {}}

PIECES = "any"
ARRAYS = True


def coefficients(
    count: int, *, weight: PerModel = 1.0, scale: float = 1.0, normalise: Normalise = "none"
) -> list[float]:
    """Return what each model's delta is multiplied by."""
    one_of("normalise", normalise, Normalise)
    weights = per_model(weight, count)
    divisor = {"weights": sum(weights), "count": float(count), "none": 1.0}[normalise]
    return [scale * value / (divisor if abs(divisor) >= 1e-8 else 1.0) for value in weights]


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    scale: float = 1.0,
    normalise: Normalise = "none",
) -> Tensor:
    """Return ``base + scale * sum_i w_i (tensor_i - base)``; a negative weight unlearns a task."""
    parts = deltas(tensors, base, fresh=False)
    factors = coefficients(len(parts), weight=weight, scale=scale, normalise=normalise)
    return on_base(add_up(parts, factors, "none"), base)

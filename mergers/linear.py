"""Linear: the weighted average of the models (Wortsman et al. 2022).

Model soups, arXiv:2203.05482, section 2: the uniform and the weighted soup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import PerModel, add_up, deltas, on_base, per_model
from studio.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: An average of models needs no base; adapters bring theirs.
NEEDS_BASE = False

#: The same settings as in those programs.
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "mergekit": {}, "peft": {"normalise": False}}

PIECES = "any"
ARRAYS = True


def coefficients(count: int, *, weight: PerModel = 1.0, normalise: bool = True) -> list[float]:
    """Return what each model's delta is multiplied by: the weights, divided by their sum."""
    weights = per_model(weight, count)
    total = sum(weights)
    if normalise and abs(total) < 1e-8:
        raise ConfigError("the weights of linear add up to 0; change them or set normalise: false")
    return [value / total for value in weights] if normalise else weights


def merge(
    tensors: Sequence[Tensor], base: Tensor | None, *, weight: PerModel = 1.0, normalise: bool = True
) -> Tensor:
    """Return ``base + sum_i w_i (tensor_i - base)`` with the weights divided by their sum.

    With weights that add up to 1 the base cancels out: it is the average of the models. Without
    ``normalise`` the weights are taken as they are; negative ones are allowed.
    """
    parts = deltas(tensors, base, fresh=False)
    total = add_up(parts, coefficients(len(parts), weight=weight, normalise=normalise), "none")
    return on_base(total, base)

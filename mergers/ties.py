"""TIES: trim small changes, elect a sign per element, average what agrees (Yadav et al. 2023).

TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708, section 3 and algorithm 1.
Programs differ in what the paper leaves open; every difference is a setting, every program a preset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mergers._ops import (
    Elect,
    Normalise,
    PerModel,
    Sign,
    agree,
    deltas,
    densities,
    on_base,
    one_of,
    per_model,
    survey_trim,
    trim,
)
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["tensor", "model"]

#: The paper trims over the whole model; mergekit and PEFT per tensor, and trim nothing unless told to.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"scope": "model", "elect": "raw", "normalise": "count", "density": 0.2},
    "mergekit": {"scope": "tensor", "elect": "weighted", "normalise": "weights", "density": 1.0},
    "peft": {"scope": "tensor", "elect": "raw", "normalise": "count"},
}


PIECES = "any"
ARRAYS = True


def survey(look: Look, *, density: PerModel = 0.2, **_: Any) -> Any:
    """Return where each model's trimming cuts, over a scope that is merged in pieces."""
    return survey_trim(look, density)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.2,
    scale: float = 1.0,
    scope: Scope = "tensor",
    elect: Elect = "weighted",
    sign: Sign = "sum",
    normalise: Normalise = "weights",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * (mean of the trimmed deltas that have the majority's sign)``.

    ``density`` in (0, 1] is the share of elements kept per model: exactly k = floor(density * n), ties by
    index. ``scope`` says whether the n are a tensor's or the model's elements; the engine then supplies the
    cuts in ``place``. An even vote counts as plus.
    """
    one_of("scope", scope, Scope)
    one_of("elect", elect, Elect)
    one_of("sign", sign, Sign)
    one_of("normalise", normalise, Normalise)
    shares = densities(density, len(tensors))
    parts = [trim(d, shares[i], place, i) for i, d in enumerate(deltas(tensors, base))]
    weights = per_model(weight, len(parts))
    return on_base(agree(parts, weights, elect=elect, sign=sign, normalise=normalise), base, scale)

"""Breadcrumbs: drop the smallest changes and the outliers, add up the rest (Davari and Belilovsky 2023).

Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, arXiv:2312.06795, section 3.1: per
tensor, the ``gamma`` largest and all but ``density`` of the rest are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import (
    Normalise,
    PerModel,
    add_up,
    crumbs,
    deltas,
    on_base,
    one_of,
    per_model,
    survey_crumbs,
)
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

#: mergekit drops nothing unless told to.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"density": 0.143, "gamma": 0.007, "scale": 0.3},
    "mergekit": {"density": 1.0, "gamma": 0.01},
}
IDENTITY = {"gamma": 0.0}
PIECES = "any"
ARRAYS = True


def survey(look: Look, *, density: PerModel = 0.15, gamma: PerModel = 0.01, **_: Any) -> Any:
    """Return where the masks of each model cut, over a tensor that is merged in pieces."""
    return survey_crumbs(look, density, gamma)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.15,
    gamma: PerModel = 0.01,
    scale: float = 1.0,
    normalise: Normalise = "none",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * sum_i w_i m_i delta_i``.

    ``density`` in (0, 1] is the share kept, ``gamma`` in [0, 1) the share of largest magnitude that is not.
    """
    one_of("normalise", normalise, Normalise)
    parts = [crumbs(d, density, gamma, place, i, len(tensors)) for i, d in enumerate(deltas(tensors, base))]
    return on_base(add_up(parts, per_model(weight, len(parts)), normalise), base, scale)

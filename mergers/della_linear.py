"""DELLA-linear: drop small changes more often than large ones, rescale, add up (Deep et al. 2024).

DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, arXiv:2406.11617,
section 3.1, without the election of section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mergers._della import sparse, survey_l1
from mergers._ops import Normalise, PerModel, Rescale, add_up, on_base, one_of, per_model
from mergers._place import NOWHERE, Look, Place

#: mergekit restores the L1 norm instead of dividing by the probabilities, and drops nothing unless told to.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"rescale": "density"},
    "mergekit": {"rescale": "l1", "density": 1.0, "epsilon": 0.15},
}
PIECES = "rows"


def survey(
    look: Look,
    *,
    density: PerModel = 0.5,
    epsilon: PerModel = 0.1,
    rescale: Rescale = "density",
    **_: Any,
) -> Any:
    """Return what restores each model's L1 norm, over a tensor that is merged in pieces."""
    return survey_l1(look, density, epsilon, rescale)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    epsilon: PerModel = 0.1,
    scale: float = 1.0,
    rescale: Rescale = "density",
    normalise: Normalise = "none",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * sum_i w_i m_i delta_i / p_i``, p = density -+ epsilon by rank."""
    one_of("normalise", normalise, Normalise)
    parts = sparse(tensors, base, density, epsilon, rescale, place)
    return on_base(add_up(parts, per_model(weight, len(parts)), normalise), base, scale)

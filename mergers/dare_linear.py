"""DARE-linear: drop elements of each delta at random, rescale the rest, add up (Yu et al. 2023).

Language Models are Super Mario, arXiv:2311.03099, section 3.2: delta_hat = m * delta / (1 - p), with
drop rate p = 1 - density. Random numbers are keyed by (seed, tensor, model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._ops import (
    Normalise,
    PerModel,
    Rescale,
    add_up,
    deltas,
    densities,
    drop,
    on_base,
    one_of,
    per_model,
    survey_drop,
)
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

#: mergekit restores the L1 norm instead of dividing by the density, and drops nothing unless told to.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"rescale": "density", "normalise": "none"},
    "mergekit": {"rescale": "l1", "normalise": "none", "density": 1.0},
    "peft": {"rescale": "density", "normalise": "none"},
}


PIECES = "any"
ARRAYS = True


def survey(look: Look, *, density: PerModel = 0.5, rescale: Rescale = "density", **_: Any) -> Any:
    """Return what restores each model's L1 norm, over a tensor that is merged in pieces."""
    return survey_drop(look, density, rescale)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    scale: float = 1.0,
    rescale: Rescale = "density",
    normalise: Normalise = "none",
    place: Place = NOWHERE,
) -> Tensor:
    """Return ``base + scale * sum_i w_i m_i delta_i / density_i``, with random masks m_i.

    ``density`` in (0, 1] is the probability with which an element is kept.
    """
    parts = sparse_deltas(tensors, base, density, rescale, place)
    one_of("normalise", normalise, Normalise)
    return on_base(add_up(parts, per_model(weight, len(parts)), normalise), base, scale)


def sparse_deltas(
    tensors: Sequence[Tensor], base: Tensor | None, density: PerModel, rescale: Rescale, place: Place
) -> list[Tensor]:
    """Return each model's delta with elements dropped at random and the rest rescaled."""
    one_of("rescale", rescale, Rescale)
    shares = densities(density, len(tensors))
    return [drop(d, shares[i], rescale, place, i) for i, d in enumerate(deltas(tensors, base))]

"""Karcher mean: the point on the sphere with the least squared distance along arcs to all models.

Karcher 1977, Riemannian center of mass and mollifier smoothing, doi:10.1002/cpa.3160300502, section 1; for
merging: arXiv:2603.04972. Directions are averaged on the unit sphere by gradient descent, lengths linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergers._gram import Gram, Origin, cosines, lengths, merge_by, survey_gram
from mergers._ops import PerModel, one_of, per_model
from mergers._place import NOWHERE, Look, Place
from studio.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: mergekit averages the models themselves, ten steps, all with the same weight.
PRESETS: dict[str, dict[str, Any]] = {"mergekit": {"origin": "zero", "steps": 10, "tolerance": 1e-5}}
NEEDS_BASE = False
PIECES = "any"
ARRAYS = True


def weights(
    gram: Gram,
    *,
    weight: PerModel = 1.0,
    steps: int = 100,
    tolerance: float = 1e-9,
    origin: Origin = "base",
) -> list[float]:
    """Return each model's weight in the mean; a zero vector has no direction and is left out."""
    one_of("origin", origin, Origin)
    count = len(gram)
    shares = np.array(per_model(weight, count))
    if (shares < 0).any() or shares.sum() <= 0:
        raise ConfigError("the weights of karcher must not be negative, and not all zero")
    shares = shares / shares.sum()
    size, angles = lengths(gram), cosines(gram)
    valid = size > max(tolerance, 0.0)
    if not valid.any():
        return [0.0] * count
    pull = np.where(valid, shares, 0.0)
    pull = pull / pull.sum() if pull.sum() else valid / valid.sum()
    mean = pull.copy()  # coefficients over the unit vectors
    length = float(np.sqrt(max(0.0, mean @ angles @ mean)))
    if length < max(tolerance, 1e-12):
        mean = np.zeros(count)
        mean[int(np.argmax(valid))] = 1.0
    else:
        mean /= length
    for _ in range(steps):
        dots = np.clip(angles @ mean, -1.0, 1.0)
        theta = np.arccos(dots)
        near = theta < max(tolerance, 1e-12)
        stretch = np.where(near, 0.0, pull * theta / np.where(near, 1.0, np.sin(theta)))
        tangent = stretch - float(stretch @ dots) * mean
        step = float(np.sqrt(max(0.0, tangent @ angles @ tangent)))
        if step < max(tolerance, 1e-12):
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
        mean /= max(float(np.sqrt(max(0.0, mean @ angles @ mean))), 1e-30)
    scale = float(shares @ size)
    return [float(v) for v in np.where(valid, scale * mean / np.where(valid, size, 1.0), 0.0)]


def survey(look: Look, *, origin: Origin = "base", **_: Any) -> Gram:
    """Return the angles and the lengths, over a tensor that is merged in pieces."""
    return survey_gram(look, origin)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    steps: int = 100,
    tolerance: float = 1e-9,
    origin: Origin = "base",
    place: Place = NOWHERE,
) -> Tensor:
    """Return the weighted Karcher mean, scaled to the weighted mean of the lengths."""
    return merge_by(
        lambda gram: weights(gram, weight=weight, steps=steps, tolerance=tolerance, origin=origin),
        tensors, base, place, origin,
    )  # fmt: skip

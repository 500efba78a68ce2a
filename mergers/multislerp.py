"""Multi-SLERP: one step of the Karcher mean, interpolation of many models in one tangent plane.

Buss and Fillmore 2001, Spherical averages and applications to spherical splines, doi:10.1145/502122.502124,
section 3.2: project the unit vectors into the tangent plane at their mean, average, go back to the sphere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergers._gram import Gram, Origin, cosines, lengths, merge_by, survey_gram
from mergers._ops import PerModel, one_of, per_model
from mergers._place import NOWHERE, Look, Place
from studio.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
NEEDS_BASE = False
PIECES = "any"
ARRAYS = True


def weights(
    gram: Gram, *, weight: PerModel = 1.0, normalise: bool = True, origin: Origin = "base"
) -> list[float]:
    """Return each model's weight; models that cancel each other out are a `MergeError`."""
    one_of("origin", origin, Origin)
    shares: Any = np.array(per_model(weight, len(gram)))
    if normalise:
        shares = shares / shares.sum()
    size, angles = lengths(gram), cosines(gram)
    if not size.any():
        return [0.0] * len(gram)
    length = float(np.sqrt(max(0.0, shares @ angles @ shares)))
    if length < 1e-8:
        if len(gram) == 2:
            return [float(share) for share in shares]
        raise MergeError("the models of multislerp cancel each other out; change the weights or use karcher")
    mean = shares / length
    dots = angles @ mean
    tangent = shares - float(shares @ dots) * mean
    step = float(np.sqrt(max(0.0, tangent @ angles @ tangent))) + 1e-8
    unit = np.cos(step) * mean + np.sin(step) / step * tangent
    scale = float(shares @ size)
    return [float(v) for v in scale * unit / np.where(size > 0, size, 1.0)]


def survey(look: Look, *, origin: Origin = "base", **_: Any) -> Gram:
    """Return the angles and the lengths, over a tensor that is merged in pieces."""
    return survey_gram(look, origin)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    normalise: bool = True,
    origin: Origin = "base",
    place: Place = NOWHERE,
) -> Tensor:
    """Return the interpolated point, scaled to the weighted mean of the lengths."""
    return merge_by(
        lambda gram: weights(gram, weight=weight, normalise=normalise, origin=origin),
        tensors, base, place, origin,
    )  # fmt: skip

"""NuSLERP: SLERP of two models by their weights, between what each learned.

Spherical interpolation as in Shoemake 1985, doi:10.1145/325334.325242, section 3.3, with
t = w_2 / (w_1 + w_2); only exactly parallel vectors are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._gram import Gram, Origin, arc, cosines, merge_by, survey_gram
from mergers._ops import PerModel, one_of, per_model
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
MODELS = 2
NEEDS_BASE = False
PIECES = "any"
ARRAYS = True
STRAIGHT = 1 - 1e-9


def weights(gram: Gram, *, weight: PerModel = 1.0, origin: Origin = "base") -> list[float]:
    """Return the weights of the two models on the arc."""
    one_of("origin", origin, Origin)
    first, second = per_model(weight, 2)
    total = first + second
    t = 0.5 if abs(total) < 1e-6 else second / total
    return list(arc(float(cosines(gram)[0, 1]), t, STRAIGHT))


def survey(look: Look, *, origin: Origin = "base", **_: Any) -> Gram:
    """Return the angle and the lengths, over a tensor that is merged in pieces."""
    return survey_gram(look, origin)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    weight: PerModel = 1.0,
    origin: Origin = "base",
    place: Place = NOWHERE,
) -> Tensor:
    """Return the point on the arc between two models that their weights decide."""
    return merge_by(lambda gram: weights(gram, weight=weight, origin=origin), tensors, base, place, origin)

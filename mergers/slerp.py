"""SLERP: walk from one model to another along the arc between them instead of the chord.

Shoemake 1985, Animating rotation with quaternion curves, doi:10.1145/325334.325242, section 3.3:
slerp(a, b, t) = sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b, with w the angle between a and b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergers._gram import Gram, Origin, arc, cosines, merge_by, survey_gram
from mergers._ops import one_of
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

#: mergekit walks between the weights themselves, not between what was learned.
PRESETS: dict[str, dict[str, Any]] = {"paper": {"origin": "zero"}, "mergekit": {"origin": "zero"}}
MODELS = 2
SYMMETRIC = False
NEEDS_BASE = False
PIECES = "any"
ARRAYS = True
#: Beyond this cosine the arc is as good as straight.
STRAIGHT = 0.9995


def weights(gram: Gram, *, t: float = 0.5, origin: Origin = "base") -> list[float]:
    """Return the weights of the two models; parallel ones are interpolated linearly."""
    one_of("origin", origin, Origin)
    return list(arc(float(cosines(gram)[0, 1]), t, STRAIGHT))


def survey(look: Look, *, origin: Origin = "base", **_: Any) -> Gram:
    """Return the angle and the lengths, over a tensor that is merged in pieces."""
    return survey_gram(look, origin)


def merge(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    *,
    t: float = 0.5,
    origin: Origin = "base",
    place: Place = NOWHERE,
) -> Tensor:
    """Return the point at ``t`` in [0, 1] on the arc from the first model to the second.

    ``origin`` is the centre of the arc: the base (so that what was learned is interpolated) or zero.
    """
    return merge_by(lambda gram: weights(gram, t=t, origin=origin), tensors, base, place, origin)

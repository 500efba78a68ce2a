"""Model stock: as far from the base towards the average as the angle between the models suggests (Jang 2024).

Model Stock: All we need is just a few fine-tuned models, arXiv:2403.19522, section 4.1, eq. 2:
w = t * average + (1 - t) * base with t = N cos(theta) / (1 + (N - 1) cos(theta)), tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergers._gram import Gram, cosines, merge_by, survey_gram
from mergers._place import NOWHERE, Look, Place

if TYPE_CHECKING:
    from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "mergekit": {}}
PIECES = "any"
ARRAYS = True


def weights(gram: Gram) -> list[float]:
    """Return each model's weight t / N, with cos(theta) the mean over all pairs."""
    count = len(gram)
    if count == 1:
        return [1.0]
    pairs = cosines(gram)[np.triu_indices(count, 1)]
    cosine = float(pairs.mean())
    below = 1 + (count - 1) * cosine
    t = count * cosine / below if abs(below) >= 1e-6 else 0.0
    return [t / count] * count


def survey(look: Look, **_: Any) -> Gram:
    """Return the angles, over a tensor that is merged in pieces."""
    return survey_gram(look, "base")


def merge(tensors: Sequence[Tensor], base: Tensor | None, *, place: Place = NOWHERE) -> Tensor:
    """Return ``base + t * mean(delta_i)``; where models point apart from each other the base stays."""
    return merge_by(weights, tensors, base, place)

"""ANLS: similarity of answer and reference by their characters, for text that is read off a picture.

    1 - NL if NL < 0.5 else 0,  NL = edits / length of the longer text

averaged over the samples (Biten et al. 2019, Scene Text Visual Question Answering, section 5,
https://arxiv.org/abs/1905.13648). Case and outer spaces do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
THRESHOLD = 0.5


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean similarity of the samples, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the similarity of every sample [N]; 0 where more than half would have to change."""
    found = [
        Levenshtein.normalized_distance(said.strip().casefold(), meant.strip().casefold())
        for said, meant in pairs(predictions, references)
    ]
    return [1 - distance if distance < THRESHOLD else 0.0 for distance in found]

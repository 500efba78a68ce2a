"""Distinct-2: different word pairs of an answer among all of its pairs, averaged over the samples.

Li et al. 2016, A Diversity-Promoting Objective Function, section 4.3, https://arxiv.org/abs/1510.03055, by
answer instead of over the corpus, so that it does not depend on n. An answer of fewer than two words scores
1. References are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
EXAMPLES = (("a red circle on a blue square", "a red a red a red"),)


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean share of different pairs, in (0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the share of every sample [N]."""
    found = []
    for prediction, _ in pairs(predictions, references):
        words = prediction.casefold().split()
        couples = list(pairwise(words))
        found.append(len(set(couples)) / len(couples) if couples else 1.0)
    return found

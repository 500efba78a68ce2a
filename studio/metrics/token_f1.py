"""Overlap of words between answer and reference, as F1, averaged over the samples.

    F1 = 2 P R / (P + R),  P = shared words / answer words,  R = shared words / reference words

with words counted as often as they occur (Rajpurkar et al. 2016, SQuAD, section 4,
https://arxiv.org/abs/1606.05250). Normalised as there: lower case, no punctuation, no English articles.
Two empty texts score 1 (Rajpurkar et al. 2018, SQuAD 2.0).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean F1 of the samples, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the F1 of every sample [N]."""
    return [
        _f1(words(prediction), words(reference)) for prediction, reference in pairs(predictions, references)
    ]


def words(text: str) -> list[str]:
    """Return the words that are compared."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))

"""Share of answers that equal their reference, case, spacing and final punctuation aside.

The normalisation is mild on purpose: a wrong word, number or order is always wrong. It is the "exact
match" of extractive question answering (Rajpurkar et al. 2016, SQuAD, section 4,
https://arxiv.org/abs/1606.05250) without the removal of articles and of inner punctuation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of exact matches, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return 1.0 for every answer that matches and 0.0 for the others [N]."""
    return [
        float(normal(prediction) == normal(reference))
        for prediction, reference in pairs(predictions, references)
    ]


def normal(text: str) -> str:
    """Return ``text`` as it is compared: NFC, casefolded, whitespace squeezed, no ``.,;:!?`` at its end."""
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(words).rstrip(".,;:!? ")

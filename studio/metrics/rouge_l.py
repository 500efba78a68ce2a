"""ROUGE-L: the longest common subsequence of words, as F1, averaged over the samples.

    P = LCS / answer words,  R = LCS / reference words,  F1 = 2 P R / (P + R)

(Lin 2004, ROUGE, section 3, with beta = 1). Words are runs of letters and digits, casefolded, not stemmed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
_WORD = re.compile(r"\w+")


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean ROUGE-L of the samples, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the ROUGE-L of every sample [N]; two texts without words score 1."""
    return [_f1(_words(said), _words(meant)) for said, meant in pairs(predictions, references)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _f1(said: list[str], meant: list[str]) -> float:
    if not said or not meant:
        return float(said == meant)
    return 2 * LCSseq.similarity(said, meant) / (len(said) + len(meant))

"""chrF2 of the corpus, in [0, 1]: F-score of character n-grams up to six, recall counted twice.

Popovic 2015 (WMT, section 2), by sacrebleu (Post 2018, https://arxiv.org/abs/1804.08771) with its defaults,
divided by 100; `SIGNATURE` says which, for tables of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from studio.metrics import _corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHER_IS_BETTER = True
SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"
_METRIC = CHRF()
BETA = 2


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the chrF of the corpus, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    return _corpus.score(_METRIC, predictions, references)


def sums(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return what chrF adds up over the samples [N, 18]: n-grams said, meant and shared, by length."""
    return _corpus.sums(_METRIC, predictions, references)


def of_sums(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the chrF [R] that belongs to sums over samples [R, 18]: the formula, for all rows at once.

    Precision and recall are averaged over the lengths of n-gram that both sides have.
    """
    said, meant, shared = (totals[:, first::3] for first in range(3))
    there = (said > 0) & (meant > 0)
    orders = np.maximum(there.sum(axis=1), 1)
    precision = (np.where(there, shared, 0.0) / np.where(there, said, 1.0)).sum(axis=1) / orders
    recall = (np.where(there, shared, 0.0) / np.where(there, meant, 1.0)).sum(axis=1) / orders
    under = BETA**2 * precision + recall
    scores: NDArray[np.float64] = np.where(
        under > 0, (1 + BETA**2) * precision * recall / np.where(under > 0, under, 1.0), 0.0
    )
    return np.minimum(scores, 1.0)

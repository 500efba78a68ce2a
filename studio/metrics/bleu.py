"""BLEU of the corpus, in [0, 1]: overlap of word n-grams up to four, with a penalty for short answers.

Papineni et al. 2002 (ACL, section 2.3), by sacrebleu (Post 2018, https://arxiv.org/abs/1804.08771) with its
defaults, divided by 100; `SIGNATURE` says which, for tables of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from studio.metrics import _corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHER_IS_BETTER = True
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
_METRIC = BLEU()


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the BLEU of the corpus, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    return _corpus.score(_METRIC, predictions, references)


def sums(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return what BLEU adds up over the samples [N, 10]: lengths, and matching and possible n-grams."""
    return _corpus.sums(_METRIC, predictions, references)


def of_sums(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the BLEU [R] that belongs to sums over samples [R, 10]: the formula, for all rows at once.

    An order without a match counts as half a match, the next as a quarter, and so on; from an order without
    n-grams on there is nothing to be right about, and the score is 0.
    """
    said, meant = totals[:, 0], totals[:, 1]
    matching, possible = totals[:, 2:6], totals[:, 6:10]
    none = np.logical_and(matching <= 0, possible > 0)
    smoothed = np.where(none, 0.5 ** none.cumsum(axis=1), matching)
    some = np.logical_and((possible > 0).all(axis=1), (matching > 0).any(axis=1))
    logs = np.log(np.where(some[:, np.newaxis], smoothed, 1.0) / np.where(possible > 0, possible, 1.0))
    short = np.minimum(0.0, 1 - meant / np.where(said > 0, said, 1.0))
    scores: NDArray[np.float64] = np.where(some, np.exp(logs.mean(axis=1) + short), 0.0)
    return np.minimum(scores, 1.0)

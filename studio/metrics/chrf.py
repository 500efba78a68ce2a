"""chrF2 of the corpus, in [0, 1]: F-score of character n-grams up to six, recall counted twice.

Popovic 2015 (WMT, section 2), by sacrebleu (Post 2018, https://arxiv.org/abs/1804.08771) with its defaults,
divided by 100; `SIGNATURE` says which, for tables of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sacrebleu.metrics.chrf import CHRF

from studio.metrics import _corpus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HIGHER_IS_BETTER = True
SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"
_METRIC = CHRF()


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
    """Return the chrF [R] that belongs to sums over samples [R, 18]."""
    return _corpus.of_sums(_METRIC, totals)

"""BLEU of the corpus, in [0, 1]: overlap of word n-grams up to four, with a penalty for short answers.

Papineni et al. 2002 (ACL, section 2.3), by sacrebleu (Post 2018, https://arxiv.org/abs/1804.08771) with its
defaults, divided by 100; `SIGNATURE` says which, for tables of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sacrebleu.metrics.bleu import BLEU

from studio.metrics import _corpus

if TYPE_CHECKING:
    import numpy as np
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
    """Return the BLEU [R] that belongs to sums over samples [R, 10]."""
    return _corpus.of_sums(_METRIC, totals)

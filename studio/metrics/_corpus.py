"""What the metrics of sacrebleu share: a score of the corpus that is a function of sums over samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.metrics._pairs import pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def share(points: float) -> float:
    """Return a score of 0 to 100 as 0 to 1; that of a perfect corpus can be a rounding above."""
    return min(float(points) / 100, 1.0)


def score(metric: Any, predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return a metric's score of the corpus, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    pairs(predictions, references)
    return share(metric.corpus_score(list(predictions), [list(references)]).score)


def sums(metric: Any, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return what a metric adds up over the samples [N, S]."""
    pairs(predictions, references)
    found = metric._extract_corpus_statistics(list(predictions), [list(references)])
    return np.asarray(found, dtype=np.float64)

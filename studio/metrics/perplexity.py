"""Perplexity of the references: how surprised a model is by the answers that should have been given.

    PPL = exp(sum of -log p(token | before) / number of tokens)

over all tokens of the references and their end, given picture, sound and question (Jelinek et al. 1977).
Between models it compares only where they cut text into the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from studio.metrics._pairs import pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHER_IS_BETTER = False
NEEDS = ("surprise", "tokens")


def score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    surprise: Sequence[float],
    tokens: Sequence[int],
) -> float:
    """Return the perplexity of the corpus, 1 or more.

    ``surprise`` is -log p of each reference in nats [N], ``tokens`` its length [N].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    totals = sums(predictions, references, surprise=surprise, tokens=tokens).sum(axis=0)
    return float(of_sums(totals[None])[0])


def sums(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    surprise: Sequence[float],
    tokens: Sequence[int],
) -> NDArray[np.float64]:
    """Return what it adds up over the samples [N, 2]: nats and tokens."""
    pairs(predictions, references)
    return np.stack([np.asarray(surprise, dtype=np.float64), np.asarray(tokens, dtype=np.float64)], axis=1)


def of_sums(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the perplexity [R] that belongs to sums over samples [R, 2]."""
    perplexities: NDArray[np.float64] = np.exp(totals[:, 0] / totals[:, 1])
    return perplexities

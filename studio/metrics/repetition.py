"""Share of an answer's word triples that it has said before: a sign of a model that is caught in a loop.

    1 - distinct triples / triples

averaged over the samples; an answer of fewer than three words scores 0 (Welleck et al. 2020, Neural Text
Generation with Unlikelihood Training, section 6, seq-rep-n with n = 3, https://arxiv.org/abs/1908.04319).
References are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = False
EXAMPLES = (("a red circle on a blue square", "a red circle a red circle a red circle"),)
SIZE = 3


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean share of repeated triples, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the share of every sample [N]."""
    return [_repeated(prediction.casefold().split()) for prediction, _ in pairs(predictions, references)]


def _repeated(words: list[str]) -> float:
    triples = [tuple(words[at : at + SIZE]) for at in range(len(words) - SIZE + 1)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0

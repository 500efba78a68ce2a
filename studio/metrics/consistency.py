"""Agreement with oneself: how often a model answers a question alike when it is asked in other words.

Samples whose group ``paraphrase`` is the same ask the same. Each counts by the share of the others of its
group that got an equal answer, case, spacing and final punctuation aside (as `exact_match`); a sample that
nobody paraphrases does not count. References are not looked at: a model can be wrong consistently.
Elazar et al. 2021, Measuring and Improving Consistency, section 3, https://arxiv.org/abs/2102.01017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studio.metrics._pairs import pairs
from studio.metrics.exact_match import normal

HIGHER_IS_BETTER = True
NEEDS = ("paraphrase",)


def score(predictions: Sequence[str], references: Sequence[str], *, paraphrase: Sequence[str]) -> float:
    """Return the share of agreeing pairs, in [0, 1].

    Raises:
        ValueError: the lengths differ, there is no sample, or no group ``paraphrase`` has two members.
    """
    agreeing, counted = map(sum, zip(*counts(predictions, references, paraphrase=paraphrase), strict=True))
    return agreeing / counted


def counts(
    predictions: Sequence[str], references: Sequence[str], *, paraphrase: Sequence[str]
) -> list[tuple[float, float]]:
    """Return (share of agreeing others, 1) of every sample, and (0, 0) of those without others [N].

    Raises:
        ValueError: the lengths differ, there is no sample, or no group ``paraphrase`` has two members.
    """
    said = [normal(prediction) for prediction, _ in pairs(predictions, references)]
    sizes = Counter(paraphrase)
    alike = Counter(zip(paraphrase, said, strict=True))
    if not any(size > 1 for name, size in sizes.items() if name):
        raise ValueError(
            "no two samples share a group 'paraphrase', so there is nothing to be consistent about"
        )
    return [
        ((alike[name, answer] - 1) / (sizes[name] - 1), 1.0) if name and sizes[name] > 1 else (0.0, 0.0)
        for name, answer in zip(paraphrase, said, strict=True)
    ]

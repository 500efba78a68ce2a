"""A judge's mean verdict: how likely each answer is right, as a person or a model has said of the row.

The verdict stands in the row as ``judgement``, a probability from 0 to 1 (Zheng et al. 2023, Judging
LLM-as-a-Judge, section 3.1, single answer grading, https://arxiv.org/abs/2306.05685). Check a judging model
against people before you trust it: a small one likes what it would have said itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
NEEDS = ("judgement",)


def score(predictions: Sequence[str], references: Sequence[str], *, judgement: Sequence[float]) -> float:
    """Return the mean verdict, in [0, 1].

    Raises:
        ValueError: if the lengths differ, there is no sample, or a judgement is no probability.
    """
    values = each(predictions, references, judgement=judgement)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str], *, judgement: Sequence[float]) -> list[float]:
    """Return the verdict on every sample [N]."""
    values = [float(value) for _, value in zip(pairs(predictions, references), judgement, strict=True)]
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("a judgement must be a probability from 0 to 1")
    return values

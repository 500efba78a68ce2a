"""Agreement with oneself: how often a model answers a question alike when it is asked in other words.

``paraphrase`` holds for each sample the answers to it in other words; or a name, and samples of the same name
ask the same. Each answer counts by the share of the others to its question that are equal, case, spacing and
final punctuation aside (as `exact_match`); a question that nobody paraphrases does not count. References are
not looked at: a model can be wrong consistently.
Elazar et al. 2021, Measuring and Improving Consistency, section 3, https://arxiv.org/abs/2102.01017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studio.metrics._pairs import pairs
from studio.metrics.exact_match import normal

HIGHER_IS_BETTER = True
NEEDS = ("paraphrase",)

Others = Sequence[str | Sequence[str]]


def score(predictions: Sequence[str], references: Sequence[str], *, paraphrase: Others) -> float:
    """Return the share of agreeing pairs, in [0, 1].

    Raises:
        ValueError: the lengths differ, there is no sample, or none is asked in other words.
    """
    agreeing, counted = map(sum, zip(*counts(predictions, references, paraphrase=paraphrase), strict=True))
    return agreeing / counted


def counts(
    predictions: Sequence[str], references: Sequence[str], *, paraphrase: Others
) -> list[tuple[float, float]]:
    """Return (shares of agreeing others, answers) of every sample, and (0, 0) of those without others [N].

    Raises:
        ValueError: the lengths differ, there is no sample, or none is asked in other words.
    """
    said = [normal(prediction) for prediction, _ in pairs(predictions, references)]
    named: dict[str, list[str]] = {}
    for name, own in zip(paraphrase, said, strict=True):
        if isinstance(name, str) and name:
            named.setdefault(name, []).append(own)
    found = []
    for others, own in zip(paraphrase, said, strict=True):
        if isinstance(others, str):
            alike = named.get(others, [own])
            found.append((_agreeing(own, alike), 1.0) if len(alike) > 1 else (0.0, 0.0))
        else:
            alike = [own, *map(normal, others)]
            every = sum(_agreeing(one, alike) for one in alike) if others else 0.0
            found.append((every, float(len(alike))) if others else (0.0, 0.0))
    if not any(number for _, number in found):
        raise ValueError(
            "no two samples share a group 'paraphrase', so there is nothing to be consistent about"
        )
    return found


def _agreeing(own: str, alike: Sequence[str]) -> float:
    """Return the share of the others of these answers, of which ``own`` is one, that are as it is."""
    return (Counter(alike)[own] - 1) / (len(alike) - 1)

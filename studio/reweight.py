"""Weights of training rows by group, so that a group that is rare, or does badly, counts for more.

    independent  P(group) P(label) / P(group, label): group and label become independent (Kamiran and Calders
                 2012, Knowledge and Information Systems 33, 1-33, section 4.3, "reweighing")
    balanced     1 / (groups P(group)): every group counts the same
    by_loss      exp(strength * loss of the group), shared among its rows: the weights of group DRO for a loss
                 that was measured once (Sagawa et al. 2020, https://arxiv.org/abs/1911.08731, algorithm 1)

`Sample.weight` carries them, and `sft` learns by them; only their ratios matter to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Group = TypeVar("Group", bound=Hashable)


def independent(groups: Sequence[Hashable], labels: Sequence[Hashable]) -> list[float]:
    """Return the weights [N] by which ``groups`` [N] tell nothing of ``labels`` [N] any more.

    Groups weigh what they did, together, if each has every label; none is made up for those it has not.
    """
    n, by_group, by_label = len(groups), Counter(groups), Counter(labels)
    both = Counter(zip(groups, labels, strict=True))
    return [
        by_group[group] * by_label[label] / (n * both[group, label])
        for group, label in zip(groups, labels, strict=True)
    ]


def balanced(groups: Sequence[Group]) -> list[float]:
    """Return the weights [N] by which every group of ``groups`` [N] counts the same."""
    return by_loss(groups, dict.fromkeys(groups, 0.0), 0.0)


def by_loss(groups: Sequence[Group], losses: Mapping[Group, float], strength: float = 2.0) -> list[float]:
    """Return the weights [N] by which groups count for more, the larger their loss.

    Args:
        groups: of the rows [N].
        losses: group -> what it loses: 1 - accuracy, an error rate, or a mean loss, measured on rows that no
            figure is reported on.
        strength: 0 balances the groups; at 2 a group that is always wrong counts 7 times one always right.

    Raises:
        ValueError: a group without a loss, or one that is not finite.
    """
    sizes = Counter(groups)
    if wrong := [group for group in sizes if not math.isfinite(losses.get(group, math.nan))]:
        raise ValueError(f"the group {wrong[0]!r} has no finite loss")
    if not sizes:
        return []
    highest = max(losses[group] for group in sizes)
    shares = {group: math.exp(strength * (losses[group] - highest)) for group in sizes}
    whole = sum(shares.values())
    return [len(groups) * shares[group] / (whole * sizes[group]) for group in groups]


def capped(weights: Sequence[float], most: float) -> list[float]:
    """Return weights [N] of the same mean that are at most ``most`` times it; 1 or more.

    A handful of rows with a weight of a hundred each would be learned by heart. What is cut off goes to the
    other rows in proportion, and is cut again where that lifts one of them over the cap.
    """
    mean = sum(weights) / len(weights)
    kept, cap = list(weights), most * mean
    for _ in weights:
        over = [weight > cap * (1 + 1e-12) for weight in kept]
        if not any(over):
            break
        at_cap = [weight >= cap for weight in kept]
        rest = sum(weight for weight, full in zip(kept, at_cap, strict=True) if not full)
        left = mean * len(kept) - cap * sum(at_cap)
        if rest <= 0:
            return [mean] * len(kept)
        kept = [cap if full else weight * left / rest for weight, full in zip(kept, at_cap, strict=True)]
    return kept

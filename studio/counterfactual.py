"""Counterfactual pairs: the same content with another accent or colour, and whether the answer stays.

What is asked and what is right are the same within a set of samples; only its sides differ (Kusner et al.
2017, Counterfactual Fairness, https://arxiv.org/abs/1703.06870; Garg et al. 2019, AIES, section 3, for pairs
of texts). So what makes a question hard falls out, and a difference of two sides is theirs alone.

    same_answer  how often two members of a set are answered alike, case, spacing and final punctuation aside
    flips        how often one of two members is answered right and the other wrong, by `exact_match`
    differences  one side's score minus another's over the sets that have both, by `studio.paired`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from studio.errors import DataError
from studio.intervals import Additive, interval
from studio.metrics.exact_match import normal
from studio.paired import Difference, paired
from studio.scores import Columns, measure
from studio.types import Score


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """``difference`` is the score of the side ``one`` minus that of ``other``, on the sets that have both."""

    one: str
    other: str
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """What changes when only the side does.

    ``sets`` are compared; ``left_out`` samples stand alone or in no set. ``sides`` is side -> score.
    """

    metric: str
    sets: int
    left_out: int
    same_answer: Score
    flips: Score
    sides: Mapping[str, float]
    differences: tuple[Contrast, ...]


def counterfactual(
    metric: str,
    predictions: Sequence[str],
    references: Sequence[str],
    sets: Sequence[str],
    sides: Sequence[str],
    seed: int = 0,
    *,
    columns: Columns | None = None,
) -> Counterfactual:
    """Compare the answers to samples that differ in their side alone.

    Args:
        metric: what the sides' scores are; one that tells something of single samples.
        predictions: the answers [N].
        references: what they are held against [N]; one for all of a set.
        sets: which set a sample is of [N], "" for none.
        sides: what differs [N], "" if that is not known.
        seed: of intervals and permutations.
        columns: what the metric needs beside, name -> [N].

    Raises:
        DataError: a set with two references, or twice with the same side, or no set with two sides.
        UnknownName: if there is no such metric.
        ValueError: the metric does not fit.
    """
    found: dict[str, dict[str, int]] = {}
    for row, (name, side) in enumerate(zip(sets, sides, strict=True)):
        if name and side:
            own = found.setdefault(name, {})
            if side in own:
                raise DataError(f"the pair '{name}' has the side '{side}' twice; each may stand in it once")
            if any(references[other] != references[row] for other in own.values()):
                raise DataError(f"the pair '{name}' has two references; its members must mean the same")
            own[side] = row
    whole = {name: own for name, own in found.items() if len(own) > 1}
    if not whole:
        raise DataError("no pair has two sides, so there is nothing to compare")

    said = [normal(answer) for answer in predictions]
    right = [answer == normal(reference) for answer, reference in zip(said, references, strict=True)]
    rows = sorted(row for own in whole.values() for row in own.values())
    names = sorted({sides[row] for row in rows}, key=str)

    def scored(picked: Sequence[int]) -> float:
        told = {name: [column[row] for row in picked] for name, column in (columns or {}).items()}
        answers, meant = [predictions[row] for row in picked], [references[row] for row in picked]
        return measure(metric, answers, meant, seed, columns=told).value

    return Counterfactual(
        metric=metric,
        sets=len(whole),
        left_out=len(predictions) - len(rows),
        same_answer=_share("same_answer", whole, lambda a, b: said[a] == said[b], seed, better=True),
        flips=_share("flips", whole, lambda a, b: right[a] != right[b], seed, better=False),
        sides={name: scored([row for row in rows if sides[row] == name]) for name in names},
        differences=tuple(
            contrast
            for one, other in combinations(names, 2)
            if (contrast := _contrast(metric, one, other, whole, predictions, references, columns, seed))
        ),
    )


def _share(
    name: str,
    sets: Mapping[str, Mapping[str, int]],
    holds: Callable[[int, int], bool],
    seed: int,
    *,
    better: bool,
) -> Score:
    """Return how often something holds of two members of a set, the mean over sets, with its interval."""
    table = Additive.of_values(
        [float(np.mean([holds(a, b) for a, b in combinations(own.values(), 2)])) for own in sets.values()]
    )
    low, high = interval(table, seed)
    return Score(name=name, value=table.observed, n=len(sets), low=low, high=high, higher_is_better=better)


def _contrast(
    metric: str,
    one: str,
    other: str,
    sets: Mapping[str, Mapping[str, int]],
    predictions: Sequence[str],
    references: Sequence[str],
    columns: Columns | None,
    seed: int,
) -> Contrast | None:
    """Return the difference of two sides, or None if no set has both."""
    both = [own for own in sets.values() if one in own and other in own]
    if not both:
        return None
    ours, theirs = [own[one] for own in both], [own[other] for own in both]

    def told(rows: Sequence[int]) -> Columns:
        return {name: [column[row] for row in rows] for name, column in (columns or {}).items()}

    difference = paired(
        metric,
        [predictions[row] for row in ours],
        [predictions[row] for row in theirs],
        [references[row] for row in ours],
        seed,
        columns=told(ours),
        baseline_columns=told(theirs),
    )
    return Contrast(one=one, other=other, difference=difference)

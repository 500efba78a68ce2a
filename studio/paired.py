"""Whether one variant is better than another on the same samples: the difference, its interval and a p-value.

Both are judged sample by sample on the same questions, so what makes a question hard falls out of the
difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from studio import plugins
from studio.intervals import FEW, MANY, Additive, interval, normal_totals
from studio.scores import Columns, additive, finite, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

PERMUTATIONS = 10_000
_CHUNK = 4_000_000  # drawn signs in memory at a time


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``value`` is the variant's score minus the baseline's, with its 95 % interval and two-sided p-value.

    ``n`` counts the samples, ``clusters`` what was drawn and permuted: the samples, or the groups they form.
    """

    metric: str
    value: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    higher_is_better: bool

    @property
    def better(self) -> bool | None:
        """Whether the variant is better (True) or worse (False) at 5 %; None where neither is shown."""
        if self.p >= 0.05 or self.value == 0:
            return None
        return (self.value > 0) is self.higher_is_better


def paired(
    metric: str,
    predictions: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    seed: int = 0,
    *,
    columns: Columns | None = None,
    baseline_columns: Columns | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Difference:
    """Compare two variants' answers to the same questions.

    The interval is a bootstrap over samples (`studio.intervals`), both variants' answers drawn together; the
    p-value is the mid-p of a permutation test that swaps the two answers of a sample at random (Fisher 1935,
    with `PERMUTATIONS` draws and the observed one among them, Phipson and Smyth 2010). ``clusters`` [N] are
    drawn and swapped whole.

    Raises:
        UnknownName: if there is no such metric.
        ValueError: the lengths differ, there is no sample, a column is missing, a score is not finite, or the
            metric's score is no function of sums over samples.
    """
    module = plugins.load("metrics", metric)
    ours = additive(module, predictions, references, needed(module, metric, columns or {}))
    theirs = additive(module, baseline, references, needed(module, metric, baseline_columns or {}))
    if ours is None or theirs is None:
        raise ValueError(f"{metric} tells nothing of single samples, so variants cannot be compared in pairs")
    return paired_of(metric, ours, theirs, seed, clusters=clusters)


def paired_of(
    metric: str,
    ours: Additive,
    theirs: Additive,
    seed: int = 0,
    *,
    clusters: Sequence[Hashable] | None = None,
) -> Difference:
    """Compare two variants by what a metric adds up over the same samples, as `paired` does.

    Raises:
        ValueError: a score is not finite.
    """
    for table in (ours, theirs):
        finite(metric, table)
    n, ours, theirs = len(ours.rows), ours.gathered(clusters), theirs.gathered(clusters)
    gap = difference(ours, theirs)
    low, high = interval(gap, seed)
    return Difference(
        metric=metric,
        value=gap.observed,
        low=low,
        high=high,
        p=p_value(ours, theirs, seed),
        n=n,
        clusters=len(ours.rows),
        higher_is_better=bool(plugins.load("metrics", metric).HIGHER_IS_BETTER),
    )


def difference(ours: Additive, theirs: Additive) -> Additive:
    """Return the difference of two scores of the same samples as one function of sums [N, 2 S]."""
    width = ours.rows.shape[1]

    def value(totals: Values) -> Values:
        return ours.value(totals[:, :width]) - theirs.value(totals[:, width:])

    rows = np.concatenate([ours.rows, theirs.rows], axis=1)
    return Additive(rows=rows, value=value, least=-1.0)


def p_value(ours: Additive, theirs: Additive, seed: int) -> float:
    """Return the share of swaps whose difference is larger than the observed one, and half of those as large.

    Where few answers differ, counting all of those calls too little different (Fagerland, Lydersen and Laake
    2013, BMC Medical Research Methodology 13:91).
    """
    gap = theirs.rows - ours.rows
    moving = gap[np.abs(gap).any(axis=1)]  # swapping equal answers changes nothing
    if not len(moving):
        return 1.0
    observed = abs(ours.observed - theirs.observed)
    one, other = ours.rows.sum(axis=0), theirs.rows.sum(axis=0)
    extreme = 0.5  # the observed one
    for moved in _swapped(moving, np.random.default_rng(seed)):
        sizes = np.abs(ours.value(one + moved) - theirs.value(other - moved))
        extreme += float((sizes > observed + 1e-12).sum() + (sizes >= observed - 1e-12).sum()) / 2
    return extreme / (PERMUTATIONS + 1)


def _swapped(gap: Values, generator: np.random.Generator) -> Iterator[Values]:
    """Yield what `PERMUTATIONS` random halves of the rows [N, S] add up to, some [P, S] at a time.

    Equal rows are drawn by their number; more than `MANY` of many kinds by the normal limit of their sum.
    """
    kinds, counts = np.unique(gap, axis=0, return_counts=True)
    if len(kinds) > FEW and len(gap) > MANY:
        yield normal_totals(gap / 2, generator, PERMUTATIONS) + gap.sum(axis=0) / 2
        return
    few = 4 * len(kinds) < len(gap)
    step = max(_CHUNK // (len(kinds) if few else len(gap)), 1)
    for at in range(0, PERMUTATIONS, step):
        size = min(step, PERMUTATIONS - at)
        if few:
            yield generator.binomial(counts, 0.5, size=(size, len(kinds))).astype(np.float64) @ kinds
        else:
            yield (generator.random((size, len(gap))) < 0.5).astype(np.float64) @ gap


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family of comparisons, adjusted (Holm 1979, Scand. J. Statist. 6, 65-70)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = most
    return adjusted

"""Whether inputs have changed: what they measure and how they are embedded, against a reference set.

    findings = compare(measured(reference), measured(new), level=0.05)

Each feature by a two-sample Kolmogorov-Smirnov test, each kind's embeddings by the maximum mean discrepancy
with a permutation test (Gretton et al. 2012, JMLR 13, 723-773), all of them together by Holm: where nothing
has changed, the chance that any is called drifted is at most ``level``. Features that take few values are
called drifted less often than that.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from studio.paired import holm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

LEAST, FEW = 5, 30
"""With fewer values nothing is tested; with fewer than the second number, what stays unseen is said."""
MOST = 300
"""Embeddings compared of either set, drawn at random where there are more: the test is quadratic in them."""
_EXACT = 2000  # values up to which the Kolmogorov-Smirnov distribution is computed exactly
_FIRST, _LAST = 1_000, 100_000  # permutations at first, and at most
_CHUNK = 20_000_000  # numbers in memory at a time
EMBEDDING = "embedding"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a set of inputs measures: values [N] by (kind, feature), and embeddings [N, D] by kind.

    ``notes`` are sentences on what could not be measured.
    """

    values: Mapping[tuple[str, str], Values]
    units: Mapping[tuple[str, str], str] = field(default_factory=dict)
    embeddings: Mapping[str, Values] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One feature of one kind (picture, sound, text) in the reference and now.

    ``before`` and ``after`` are medians in ``unit`` (NaN for embeddings). ``distance`` is between the two
    distributions: the largest gap of their shares, 0 to 1, or the discrepancy of embeddings. ``p`` is
    adjusted for all features; ``n_reference`` and ``n`` are what was compared.
    """

    kind: str
    feature: str
    unit: str
    n_reference: int
    n: int
    before: float
    after: float
    distance: float
    p: float
    drifted: bool


def compare(
    reference: Measured, new: Measured, *, level: float = 0.05, seed: int = 0
) -> tuple[list[Finding], list[str]]:
    """Return the findings, those of the same kind together, and notes on what could not be told.

    Args:
        reference: what inputs used to be like.
        new: what they are like now.
        level: chance that anything is called drifted where nothing is.
        seed: of the permutations, and of the draw of embeddings.
    """
    names = [name for name in new.values if name in reference.values]
    kinds = [kind for kind in new.embeddings if kind in reference.embeddings]
    sizes = {kind: _sizes(reference, new, kind) for kind, _ in names}
    notes = [*reference.notes, *new.notes]
    notes += [note for kind, (n, m) in sizes.items() for note in _small(kind, n, m, level)]
    notes += [
        f"the {side} holds no {kind}s, so nothing of them is compared"
        for one, other, side in ((reference, new, "new set"), (new, reference, "reference"))
        for kind in dict.fromkeys(kind for kind, _ in one.values)
        if kind not in {kind for kind, _ in other.values}
    ]
    names = [name for name in names if min(sizes[name[0]]) >= LEAST]
    kinds = [kind for kind in kinds if min(_rows(reference, kind), _rows(new, kind)) >= LEAST]
    tests = max(1, len(names) + len(kinds))
    raw: list[tuple[float, float]] = [ks(reference.values[name], new.values[name]) for name in names]
    draw = np.random.default_rng(seed)
    pairs = {
        kind: (_some(reference.embeddings[kind], draw), _some(new.embeddings[kind], draw)) for kind in kinds
    }
    raw += [mmd(*pairs[kind], level=level / tests, seed=seed) for kind in kinds]
    adjusted = holm([p for _, p in raw])
    found = []
    for (kind, feature), (distance, _), p in zip(
        [*names, *((kind, EMBEDDING) for kind in kinds)], raw, adjusted, strict=True
    ):
        scalar = feature != EMBEDDING
        one, other = (reference.values[kind, feature], new.values[kind, feature]) if scalar else pairs[kind]
        found.append(
            Finding(
                kind=kind,
                feature=feature,
                unit=reference.units.get((kind, feature), ""),
                n_reference=len(one),
                n=len(other),
                before=float(np.median(one)) if scalar else math.nan,
                after=float(np.median(other)) if scalar else math.nan,
                distance=distance,
                p=p,
                drifted=p <= level,
            )
        )
    return sorted(found, key=lambda one: list(sizes).index(one.kind) if one.kind in sizes else 9), notes


def ks(reference: Values, new: Values) -> tuple[float, float]:
    """Return the largest gap between two distributions and its p-value, which ties make too large."""
    from scipy.stats import ks_2samp

    method = "exact" if max(len(reference), len(new)) <= _EXACT else "asymp"
    with warnings.catch_warnings():  # where the exact value is out of reach it says so and takes the other
        warnings.simplefilter("ignore", RuntimeWarning)
        found = ks_2samp(reference, new, method=method)
    return float(found.statistic), float(found.pvalue)


def mmd(reference: Values, new: Values, *, level: float, seed: int = 0) -> tuple[float, float]:
    """Return the maximum mean discrepancy of two samples [N, D] and [M, D], and its permutation p-value.

    The kernel is Gaussian, as wide as the median distance; every dimension is divided by its deviation in
    both samples together. A p-value that is clearly no drift takes `_FIRST` permutations, another as many as
    it takes to fall below ``level``. Looking again only where the first looks are few keeps the test valid.
    """
    rows = np.concatenate([reference, new]).astype(np.float64)
    spread = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    squares = (rows**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0.0)
    above = distances[np.triu_indices(len(rows), 1)]
    width = float(np.median(above)) or 1.0
    kernel = np.exp(-distances / width).astype(np.float32)
    n, m = len(reference), len(new)
    signs = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)]).astype(np.float32)
    observed = float(signs @ kernel @ signs)
    draw = np.random.default_rng(seed)
    wanted, done, above_it = _FIRST, 0, 1
    while done < wanted:
        count = min(wanted - done, max(_CHUNK // len(rows), 1))
        order = draw.random((count, len(rows)), dtype=np.float32).argsort(axis=1)
        weights = signs[order]
        above_it += int((((weights @ kernel) * weights).sum(axis=1) >= observed - 1e-7).sum())
        done += count
        if done == _FIRST and above_it / (done + 1) <= 0.05:
            wanted = min(_LAST, max(_FIRST, math.ceil(4 / level)))
    return math.sqrt(max(observed, 0.0)), above_it / (done + 1)


def gap_seen(n: int, m: int, level: float) -> float:
    """Return how large the gap between two distributions must be for samples of these sizes to show it.

    It is the critical distance of Kolmogorov and Smirnov for large samples, at most 1.
    """
    return min(1.0, math.sqrt(-math.log(level / 2) / 2 * (n + m) / (n * m)))


def _small(kind: str, n: int, m: int, level: float) -> list[str]:
    few, which = (n, "in the reference") if n <= m else (m, "to compare")
    if few < LEAST:
        return [
            f"{few} {kind}{'' if few == 1 else 's'} {which} are too few to say anything; {LEAST} are needed"
        ]
    if few < FEW:
        seen = f"only a shift of more than {gap_seen(n, m, level):.0%} of them would show"
        return [f"{few} {kind}s {which} are few: {seen}"]
    return []


def _sizes(reference: Measured, new: Measured, kind: str) -> tuple[int, int]:
    def size(one: Measured) -> int:
        return max(len(values) for (own, _), values in one.values.items() if own == kind)

    return size(reference), size(new)


def _rows(one: Measured, kind: str) -> int:
    return len(one.embeddings[kind])


def _some(rows: Values, draw: np.random.Generator) -> Values:
    return rows if len(rows) <= MOST else rows[np.sort(draw.choice(len(rows), MOST, replace=False))]

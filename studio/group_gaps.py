"""The gap between groups of samples: its 95 % interval, and whether it is more than chance.

Groups always differ, and the more groups and the smaller, the further apart the best and the worst are by
chance alone. So the interval is simultaneous over all pairs of groups, and the p-value is that of a
permutation test in which the groups' names are dealt out anew to the samples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from studio.intervals import Z95, Additive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int64]
    Values = NDArray[np.float64]

PERMUTATIONS = 5000
_CHUNK = 2_000_000  # numbers in memory at a time


def part(table: Additive, rows: Codes) -> Additive:
    """Return the same score of some of the samples [M]."""
    return replace(table, rows=table.rows[rows])


def gap_interval(parts: Sequence[Additive], ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the 95 % interval of the largest difference between any two of K groups.

    Each group's interval is widened until all pairs hold at once (Tukey's studentised range), and those of
    two groups make the one of their difference (MOVER: Zou and Donner 2008, Statistics in Medicine 27,
    1693-1702, equation 4). With two groups it covers 95 %, with more of them more than that.

    Args:
        parts: the groups' scores [K], two or more, by sample or by cluster (`clustered`).
        ends: their own 95 % intervals [K].
    """
    from scipy.stats import studentized_range

    z = float(studentized_range.ppf(0.95, len(parts), np.inf)) / math.sqrt(2)
    values = np.array([own.observed for own in parts])
    wide = [_widened(own, pair, z) for own, pair in zip(parts, ends, strict=True)]
    below = values - np.array([low for low, _ in wide])
    above = np.array([high for _, high in wide]) - values
    apart = values[:, None] - values[None, :]
    off = ~np.eye(len(parts), dtype=bool)
    low = float((apart - np.hypot(below[:, None], above[None, :]))[off].max())
    high = float((apart + np.hypot(above[:, None], below[None, :]))[off].max())
    return max(low, 0.0), high


def _widened(table: Additive, ends: tuple[float, float], z: float) -> tuple[float, float]:
    """Return the interval at ``z`` standard errors: Wilson's for shares, else the 95 % one, stretched."""
    if not table.share:
        value, stretch = table.observed, z / Z95
        return value - stretch * (value - ends[0]), value + stretch * (ends[1] - value)
    n = len(table.rows)
    share, z2 = table.observed, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(middle - half, share), max(middle + half, share)


def clustered(table: Additive, clusters: Sequence[Hashable] | None) -> Additive:
    """Return a group's score with one row for each cluster [N] of its samples, for `interval` to draw."""
    if clusters is None or len({str(cluster) for cluster in clusters}) == len(clusters):
        return table  # each has one sample here, as where a sentence is said once in every accent
    return table.gathered(clusters)


def gap_p_value(
    table: Additive, codes: Codes, seed: int, clusters: Sequence[Hashable] | None = None
) -> float:
    """Return the mid-p of the permutation test for "the group makes no difference".

    What is compared is the largest difference of two groups in units of its standard error, up to a factor
    that permuting does not change (Tukey and Kramer's), so that a small group does not drown the others.
    ``codes`` [N] are the samples' groups, 0 to K - 1, each with a member.

    With ``clusters`` [N] that each lie within a group (a speaker and the speaker's accent) names of groups
    are dealt to whole clusters; if one lies in several groups (a sentence said in two accents), they are
    dealt anew within each cluster.
    """
    rows = np.concatenate([table.rows, np.ones((len(codes), 1))], axis=1)
    blocks = np.zeros(len(codes), dtype=np.int64)
    if clusters is not None:
        _, place = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
        pairs = np.unique(np.stack([place, codes], axis=1), axis=0)
        if len(pairs) == place.max() + 1:
            gathered = np.zeros((len(pairs), rows.shape[1]))
            np.add.at(gathered, place, rows)
            rows, codes, blocks = gathered, pairs[:, 1], np.zeros(len(pairs), dtype=np.int64)
        else:
            blocks = place
    groups = int(codes.max()) + 1
    observed = float(_furthest(_totals(rows, codes, groups)[None], table)[0])
    if observed <= 1e-9:
        return 1.0
    extreme, generator = 0.5, np.random.default_rng(seed)  # the observed one
    for totals in _dealt(rows, codes, blocks, groups, generator):
        found = _furthest(totals, table)
        extreme += float((found > observed + 1e-9).sum() + (found >= observed - 1e-9).sum()) / 2
    return extreme / (PERMUTATIONS + 1)


def _totals(rows: Values, codes: Codes, groups: int) -> Values:
    totals = np.zeros((groups, rows.shape[1]))
    np.add.at(totals, codes, rows)
    return totals


def _furthest(totals: Values, table: Additive) -> Values:
    """Return the largest studentised difference [R] of totals [R, K, S + 1], whose last column counts."""
    draws, groups, width = totals.shape
    values = table.value(totals[..., :-1].reshape(-1, width - 1)).reshape(draws, groups)
    spread = 1.0 / totals[..., -1]
    found = np.zeros(draws)
    for one in range(groups - 1):
        apart = np.abs(values[:, one, None] - values[:, one + 1 :])
        found = np.maximum(found, (apart / np.sqrt(spread[:, one, None] + spread[:, one + 1 :])).max(axis=1))
    return found


def _dealt(
    rows: Values, codes: Codes, blocks: Codes, groups: int, generator: np.random.Generator
) -> Iterator[Values]:
    """Yield `PERMUTATIONS` totals [P, K, S] of groups whose names are dealt anew within the blocks."""
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    if len(kinds) <= 2 and not blocks.any():  # shares: how many of the right ones each group is dealt
        yield _dealt_counts(kinds, counts, np.bincount(codes, minlength=groups), generator)
        return
    home = np.argsort(blocks, kind="stable")  # places block by block, as a shuffled block's rows come
    back = np.argsort(codes[home], kind="stable")  # of those, the places group by group
    starts = np.searchsorted(codes[home][back], np.arange(groups))
    step = max(_CHUNK // rows.size, 1)
    for at in range(0, PERMUTATIONS, step):
        size = (min(step, PERMUTATIONS - at), len(rows))
        shuffled = np.argsort(generator.random(size) + blocks, axis=1)
        yield np.add.reduceat(rows[shuffled[:, back]], starts, axis=1)


def _dealt_counts(kinds: Values, counts: Codes, sizes: Codes, generator: np.random.Generator) -> Values:
    """Return totals [P, K, S] where there are at most two kinds of rows [2, S]."""
    if len(kinds) == 1:
        return np.broadcast_to(sizes[None, :, None] * kinds[0], (PERMUTATIONS, len(sizes), kinds.shape[1]))
    left = np.tile(counts.astype(np.int64), (PERMUTATIONS, 1))
    totals = np.empty((PERMUTATIONS, len(sizes), kinds.shape[1]))
    for group, size in enumerate(sizes):
        first = generator.hypergeometric(left[:, 0], left[:, 1], size)
        taken = np.stack([first, size - first], axis=1)
        left -= taken
        totals[:, group] = taken @ kinds
    return totals

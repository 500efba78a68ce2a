"""Exactly the k largest magnitudes, found by selection instead of sorting; ties go to the lower index.

A sample gives two values that very probably enclose the k-th largest. One pass counts what lies above and
collects what lies between; the count proves the guess right or says on which side to look again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mergers._arrays import bits_of, bits_type, joined
from mergers._place import Look
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor


class Cut(NamedTuple):
    """What is kept: magnitudes above ``threshold``, and those equal to it up to the index ``last``."""

    threshold: float
    last: int


SAMPLE = 1 << 14
#: So many candidates are collected per model at most.
CAP = 1 << 22
GUESSES = 4
#: As an index: all of them.
ALL = 1 << 62


def keep_count(density: float, count: int) -> int:
    """Return how many of ``count`` elements a density keeps: rounded down, at least one."""
    return min(count, max(1, int(density * count)))


def cut(size: Any, k: int) -> Cut:
    """Return the cut that keeps exactly ``k`` elements of the magnitudes ``size`` [n], 1 <= k <= n."""
    threshold = _kth_largest(size, k)
    above = _count(size > threshold)
    equal = size == threshold
    if _count(equal) == k - above:
        return Cut(threshold, ALL)
    return Cut(threshold, int(_where(equal)[k - above - 1]))


def shrink(flat: Tensor, found: Cut, first: int) -> Tensor:
    """Return the values [n] that a cut keeps, zero elsewhere; ``first`` is their first index in its scope.

    Magnitudes are ordered like the bits that store them, read as whole numbers.
    """
    whole, _, place = bits_type(flat)
    threshold = bits_of(found.threshold, flat)
    bits = flat.view(whole)
    every = found.last >= first + len(flat)
    mask = bits & ((1 << place) - 1)
    if not every and found.last >= first:
        equal = mask == threshold
        equal[found.last - first + 1 :] = False
    mask *= -1
    mask += threshold - (1 if every else 0)
    mask >>= place  # all ones where the threshold was less, else all zeros
    mask &= bits
    if not every and found.last >= first:
        mask[equal] = bits[equal]
    return mask.view(flat.dtype)


def survey_cuts(look: Look, ks: Sequence[int]) -> tuple[Cut, ...]:
    """Return for each model the cut that keeps ``ks`` elements of a scope that is only seen in pieces.

    One pass where the sample guesses right, one more where values tie at the threshold; after `GUESSES`
    wrong guesses bisection, which needs a pass for every bit of a number.
    """
    sides = [_bracket(abs(s).reshape(-1), k / look.numel) for s, k in zip(look.sample(), ks, strict=True)]
    cuts: list[Cut | None] = [Cut(0.0, ALL) if k >= look.numel else None for k in ks]
    ties: dict[int, int] = {}
    for _ in range(GUESSES):
        open_ones = [i for i, found in enumerate(cuts) if found is None]
        if not open_ones:
            break
        for i, split in _split_scope(look, sides, open_ones).items():
            low, high = sides[i]
            if split.overflowed:
                sides[i] = _narrower(split, ks[i] / look.numel)
            elif not split.above < ks[i] <= split.above + split.between:
                sides[i] = (high, math.inf) if ks[i] <= split.above else (-1.0, low)
            else:
                cuts[i], wanted = _cut_between(split, ks[i] - split.above, low, high)
                if wanted:
                    ties[i] = wanted
    found = []
    for i, (one, k) in enumerate(zip(cuts, ks, strict=True)):
        if one is None:
            one, ties[i] = _bisect(look, i, k)
        found.append(one)
    return tuple(_place_ties(look, found, ties) if ties else found)


def _cut_between(split: _Split, k: int, low: float, high: float) -> tuple[Cut, int]:
    """Return the cut that keeps the ``k`` largest that lie between, and how many ties are yet to place."""
    if low == high:
        return Cut(low, ALL), 0 if split.between == k else k
    middle = split.middle()
    threshold = _kth(middle, k)
    equal = middle == threshold
    wanted = k - _count(middle > threshold)
    if _count(equal) == wanted:
        return Cut(threshold, ALL), 0
    return Cut(threshold, int(joined(split.places)[_where(equal)[wanted - 1]])), 0


def _bisect(look: Look, model: int, k: int) -> tuple[Cut, int]:
    """Return a model's cut, and how many of the elements at its threshold are kept, by halving an interval.

    Magnitudes are ordered like the bits that store them, read as whole numbers.
    """
    low, high = 0, 1
    kind: np.dtype[Any] = np.dtype(np.float32)
    for _, parts in look.pieces():
        size = abs(parts[model]).reshape(-1)
        if len(size):
            kind = np.dtype(np.float64 if size.itemsize == 8 else np.float32)
            high = max(high, int(np.array(float(size.max()), kind).view(f"i{kind.itemsize}")))
    whole = np.dtype(np.int32 if kind == np.float32 else np.int64)

    def value(bits: int) -> float:
        return float(np.array(bits, whole).view(kind))

    def above(threshold: float) -> int:
        return sum(_count(abs(parts[model]).reshape(-1) > threshold) for _, parts in look.pieces())

    while low < high:  # the least number that fewer than k elements exceed
        middle = (low + high) // 2
        low, high = (low, middle) if above(value(middle)) < k else (middle + 1, high)
    return Cut(value(low), ALL), k - above(value(low))


@dataclass
class _Split:
    """How a scope's magnitudes lie about two values: above, between (collected), below."""

    above: int = 0
    between: int = 0
    seen: int = 0
    parts: list[Any] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    overflowed: bool = False

    def middle(self) -> Any:
        """Return what lies between, as one array or tensor."""
        return joined(self.parts) if self.parts else np.empty(0, np.float32)


def _split_scope(
    look: Look, sides: Sequence[tuple[float, float]], models: Sequence[int]
) -> dict[int, _Split]:
    """Return each model's split at its two values; what lies between is collected up to `CAP` elements.

    Where the two values are the same, as between many ties, nothing needs to be collected.
    """
    splits = {i: _Split() for i in models}
    for place, deltas in look.pieces():
        for i, split in splits.items():
            if split.overflowed:
                continue
            low, high = sides[i]
            size = abs(deltas[i]).reshape(-1)
            split.seen += len(size)
            if low == high:
                split.above += _count(size > high)
                split.between += _count(size == high)
                continue
            over, where = _split(size, low, high)
            split.above += over
            split.between += len(where)
            split.parts.append(size[where])
            split.places.append(where + (place.offset + place.start))
            split.overflowed = split.between > CAP
    return splits


def _narrower(split: _Split, share: float) -> tuple[float, float]:
    """Return two values closer together: about where the share lies in what was collected."""
    middle = split.middle()
    ordered = np.sort(middle if isinstance(middle, np.ndarray) else middle.cpu().numpy())[::-1]
    place = (share * split.seen - split.above) / len(ordered)
    place = min(max(place, 0.0), 1.0) * (len(ordered) - 1)
    slack = len(ordered) / 20
    return float(ordered[min(len(ordered) - 1, int(place + slack))]), float(
        ordered[max(0, int(place - slack))]
    )


def _place_ties(look: Look, cuts: list[Cut], ties: dict[int, int]) -> list[Cut]:
    """Return the cuts with the index of the last tie that is kept."""
    left = dict(ties)
    for place, parts in look.pieces():
        if not any(left.values()):
            break
        for i in [i for i, wanted in left.items() if wanted]:
            equal = abs(parts[i]).reshape(-1) == cuts[i].threshold
            count = _count(equal)
            if count >= left[i]:
                last = int(_where(equal)[left[i] - 1])
                cuts[i] = Cut(cuts[i].threshold, place.offset + place.start + last)
            left[i] = max(0, left[i] - count)
    return cuts


def _bracket(sample: Any, share: float) -> tuple[float, float]:
    """Return two values that very probably enclose the one that ``share`` of all elements exceed."""
    count = len(sample)
    place, slack = share * count, 6 * math.sqrt(count * share * (1 - share)) + 2
    low, high = int(place + slack), int(place - slack)
    return (
        _kth(sample, low + 1) if low < count else -1.0,
        _kth(sample, high + 1) if high >= 0 else math.inf,
    )


def _kth_largest(size: Any, k: int) -> float:
    count = len(size)
    if count > 4 * SAMPLE:
        low, high = _bracket(size[:: count // SAMPLE], k / count)
        above, where = _split(size, low, high)
        if above < k <= above + len(where):
            return _kth(size[where], k - above)
    return _kth(size, k)


def _split(size: Any, low: float, high: float) -> tuple[int, Any]:
    """Return how many magnitudes exceed ``high``, and the indices of those from ``low`` to ``high``."""
    over = size > high
    middle = size >= low
    middle ^= over
    return _count(over), _where(middle)


def _count(mask: Any) -> int:
    """Return how many are true; numpy counts booleans five times as fast as torch on a processor."""
    if isinstance(mask, np.ndarray):
        return int(np.count_nonzero(mask))
    return int(torch.count_nonzero(mask)) if mask.is_cuda else int(np.count_nonzero(mask.numpy()))


def _where(mask: Any) -> Any:
    """Return the indices [m] of what is true, in order."""
    if isinstance(mask, np.ndarray):
        return np.flatnonzero(mask)
    return mask.nonzero().flatten() if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))


def _kth(size: Any, k: int) -> float:
    place = len(size) - k
    if isinstance(size, np.ndarray):
        return float(np.partition(size, place)[place])
    if size.is_cuda:
        return float(torch.kthvalue(size, place + 1).values)
    return float(np.partition(size.numpy(), place)[place])

"""Exactly the k largest magnitudes, found by selection instead of sorting; ties go to the lower index."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """What is kept: magnitudes above ``threshold``, and those equal to it up to the index ``last``."""

    threshold: float
    last: int


NOTHING = Cut(math.inf, -1)
SAMPLE = 1 << 14


def cut(size: Tensor, k: int) -> Cut:
    """Return the cut that keeps exactly ``k`` elements of the magnitudes ``size`` [n], 1 <= k <= n."""
    threshold = kth_largest(size, k)
    above = int(torch.count_nonzero(size > threshold))
    equal = size == threshold
    if int(torch.count_nonzero(equal)) == k - above:
        return Cut(threshold, size.numel())
    return Cut(threshold, int(equal.nonzero()[k - above - 1]))


def kept(size: Tensor, found: Cut, offset: int = 0) -> Tensor:
    """Return which elements a cut keeps; ``offset`` is the index of the first one within the cut's scope."""
    mask = size > found.threshold
    first, last = offset, offset + size.numel()
    if found.last < first:
        return mask
    equal = size == found.threshold
    if found.last < last:
        equal[found.last - offset + 1 :] = False
    return mask.logical_or_(equal)


def kth_largest(size: Tensor, k: int) -> float:
    """Return the k-th largest value of ``size`` [n].

    A sorted sample gives two values that very probably enclose it; only what lies between them is selected
    from. The count outside proves the guess right, otherwise all elements are selected from.
    """
    count = size.numel()
    if count > 4 * SAMPLE:
        sample = size[:: count // SAMPLE].sort(descending=True).values
        place, slack = k / count * len(sample), 6 * math.sqrt(len(sample))
        low = sample[min(len(sample) - 1, int(place + slack))]
        high = sample[max(0, int(place - slack))]
        above = int(torch.count_nonzero(size > high))
        middle = size[(size <= high) & (size >= low)]
        if above < k <= above + middle.numel():
            size, k = middle, k - above
    return float(torch.kthvalue(size, size.numel() - k + 1).values)

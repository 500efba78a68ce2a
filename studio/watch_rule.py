"""When a version counts as worse than a good one: a rule whose false alarms are bounded over many looks.

A watch looks again and again, and most often at the same questions. At the usual 5 % it would raise a false
alarm every few weeks. So the chance ``alpha`` is spent over ``looks`` looks, the same part at each, and
within a look over all variants, figures and references by Holm: in so many looks the chance of even one
false alarm is at most ``alpha``. That is Bonferroni's bound, which holds however the looks depend on each
other; rules that gain from independent looks (CUSUM, products of e-values) would not hold here, because the
questions stay the same. A look at what has not changed answers as before and spends nothing.

Every test is exact: where the new version answers as well as the good one, each sample's difference is as
often above as below zero, so its sign can be flipped (Fisher 1935). The distribution of the sum over all
flips is computed, not drawn, because p-values far below one in ten thousand are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from studio.paired import holm

ALPHA, LOOKS = 0.05, 100
"""The chance of a false alarm, and over how many looks at something new it is meant."""
_GRID = 60  # differences are counted in so many parts of the largest one; halves to sixths are exact


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One figure of a new version beside a good one: differences [N] of the same samples, below 0 is worse.

    ``against`` says which good version it is (``last good`` or ``first``), and ``look`` when that was seen.
    """

    variant: str
    figure: str
    against: str
    look: int
    differences: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says of a pair; ``p`` is adjusted for all pairs of the look and compared with ``level``.

    ``difference`` is the mean over the ``n`` samples that both versions answered.
    """

    variant: str
    figure: str
    against: str
    look: int
    difference: float
    n: int
    p: float
    level: float
    worse: bool
    better: bool


def judge(pairs: Sequence[Pair], *, alpha: float = ALPHA, looks: int = LOOKS) -> list[Verdict]:
    """Return the verdict on each pair of one look, in their order."""
    level = alpha / looks
    down = holm([sign_flip_p(pair.differences) for pair in pairs])
    up = holm([sign_flip_p([-value for value in pair.differences]) for pair in pairs])
    return [
        Verdict(
            variant=pair.variant,
            figure=pair.figure,
            against=pair.against,
            look=pair.look,
            difference=float(np.mean(pair.differences)),
            n=len(pair.differences),
            p=worse,
            level=level,
            worse=worse <= level,
            better=better <= level,
        )
        for pair, worse, better in zip(pairs, down, up, strict=True)
    ]


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the chance of a sum this low or lower when every sign is flipped at random, exactly.

    Differences are counted in parts of the largest one, which changes the statistic a little but keeps the
    test valid; values that are 0 or 1 are counted as they are (the sign test of McNemar 1947).

    Raises:
        ValueError: there is none, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite numbers, at least one; got {len(values)}")
    most = float(np.abs(values).max())
    if most == 0:
        return 1.0
    steps = np.rint(values / most * _GRID).astype(np.int64)
    steps = steps[steps != 0]
    common = math.gcd(*(int(step) for step in np.unique(np.abs(steps))))
    sizes, counts = np.unique(np.abs(steps) // common, return_counts=True)
    observed, span = int(steps.sum()) // common, int((sizes * counts).sum())
    length = 1 << (2 * span + 1).bit_length()
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    spectrum = np.ones(len(angles))
    for size, count in zip(sizes, counts, strict=True):  # the characteristic function of all flips
        spectrum *= np.cos(angles * size) ** int(count)
    chances = np.fft.irfft(spectrum, length)
    below = (
        float(chances[length - span :].sum() + chances[: observed + 1].sum())
        if observed >= 0
        else float(chances[length - span : length + observed + 1].sum())
    )
    return min(1.0, max(below, 0.5 ** len(steps)))


def differences(
    new: Mapping[str, float], good: Mapping[str, float], *, higher_is_better: bool
) -> list[float]:
    """Return what every sample gained (below 0: lost), of values by sample; samples of both alone count."""
    sign = 1.0 if higher_is_better else -1.0
    return [sign * (new[key] - good[key]) for key in sorted(new.keys() & good.keys())]

"""The learning rate as a pure function of the step, so that nothing about it has to be saved."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def warmup_steps(warmup: float, total: int) -> int:
    """Return the warm-up in steps: below 1 a share of ``total``, from 1 on a number of steps."""
    steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    return min(steps, total)


def factor(step: int, total: int, warmup: int, kind: Schedule) -> float:
    r"""Return what the learning rate is multiplied by at ``step`` (0 <= step < total), in (0, 1].

    Linear from $1/w$ to 1 over $w$ warm-up steps; then, with $p$ the share of the remaining steps done,
    $\frac{1 + \cos \pi p}{2}$ (Loshchilov and Hutter 2017, arXiv:1608.03983), $1 - p$, or 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if kind == "linear" else 1.0

"""The learning rate as a pure function of the step, so that nothing about it has to be saved.

With $w$ warm-up steps, $T$ steps in all and $p$ the share of the steps after the warm-up that are done:

    constant          1
    linear            1 - p
    cosine            (1 + cos(pi p)) / 2  (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5)
    cosine_restarts   the same, ``cycles`` times in a row (section 3 there)
    polynomial        (1 - p) ** ``power``  (Chen et al. 2016, arXiv:1606.00915, section 4.3.1)
    inverse_sqrt      sqrt(w / (step + 1))  (Vaswani et al. 2017, arXiv:1706.03762, section 5.3)
    wsd               1, and 1 - sqrt(q) over the share q of the cool-down: warm-up, stable, decay (Hu et al.
                      2024, arXiv:2404.06395, section 4; the form of Hagele et al. 2024, arXiv:2405.18392)
    one_cycle         by half a cosine from 1/25 up to 1 in the warm-up, then by another down to 4e-6 (Smith
                      and Topin 2017, arXiv:1708.07120); the betas of AdamW stay as they are
    ramp              up from ``floor`` to 1 by equal ratios, without a warm-up: what finds a learning rate
                      (Smith 2015, arXiv:1506.01186, section 3.3)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "cosine_restarts",
    "polynomial",
    "inverse_sqrt",
    "wsd",
    "one_cycle",
    "ramp",
]
#: Where one_cycle begins, and where it ends, as torch's OneCycleLR has it.
CYCLE_BEGIN, CYCLE_END = 1 / 25, 1 / 25 / 1e4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What some schedules ask for besides.

    ``floor`` in [0, 1) is what the factor falls to instead of 0; ``cooldown`` the steps over which wsd
    decays, below 1 a share of all; ``cycles`` >= 1 and ``power`` > 0 are cosine_restarts' and polynomial's.
    """

    floor: float = 0.0
    cooldown: float = 0.2
    cycles: int = 2
    power: float = 2.0


def warmup_steps(warmup: float, total: int) -> int:
    """Return the warm-up in steps: below 1 a share of ``total``, from 1 on a number of steps."""
    steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    return min(steps, total)


def factor(step: int, total: int, warmup: int, kind: Schedule, shape: Shape = Shape()) -> float:
    r"""Return what the learning rate is multiplied by at ``step`` (0 <= step < total), in (0, 1].

    Linear from $1/w$ to 1 over $w$ warm-up steps, except for one_cycle and ramp; then as the kind says, from
    1 down to ``shape.floor``.
    """
    if kind == "ramp":
        return float(max(shape.floor, 1e-8) ** (1.0 - step / max(total - 1, 1)))
    if kind == "one_cycle":
        return _one_cycle(step, total, warmup)
    if step < warmup:
        return (step + 1) / warmup
    share = _after_warmup(step, total, warmup, kind, shape)
    return shape.floor + (1.0 - shape.floor) * share


def _after_warmup(step: int, total: int, warmup: int, kind: Schedule, shape: Shape) -> float:
    """Return the factor of a floor of 0."""
    done = (step - warmup) / max(total - warmup, 1)
    if kind == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / (step + 1))
    if kind == "wsd":
        falling = min(warmup_steps(shape.cooldown, total), total - warmup)
        begun = step - (total - falling)
        return 1.0 - math.sqrt((begun + 1) / (falling + 1)) if begun >= 0 else 1.0
    if kind == "cosine_restarts":
        done = done * shape.cycles % 1.0
    if kind in ("cosine", "cosine_restarts"):
        return 0.5 * (1.0 + math.cos(math.pi * done))
    power = {"linear": 1.0, "polynomial": shape.power}.get(kind, 0.0)
    return float((1.0 - done) ** power)


def _one_cycle(step: int, total: int, warmup: int) -> float:
    """Return the factor of the one-cycle policy, whose rise takes the warm-up."""
    top = max(warmup - 1, 0)
    if step <= top:
        begin, end, done = CYCLE_BEGIN, 1.0, step / top if top else 1.0
    else:
        begin, end, done = 1.0, CYCLE_END, (step - top) / max(total - 1 - top, 1)
    return end + (begin - end) * 0.5 * (1.0 + math.cos(math.pi * done))

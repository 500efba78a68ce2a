"""What a ramp of the learning rate says: where training diverged, and which rates it suggests.

The rate rises by equal ratios from step to step (Smith 2015, arXiv:1506.01186, section 3.3), and the losses
are smoothed over steps. Two rates are told: where the loss falls most steeply over the rate's logarithm, and
a tenth of the rate where it is lowest. The suggestion is the smaller of them: too small costs time, too large
the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studio.errors import TriptychError

#: A smoothed loss so many times its lowest has diverged.
DIVERGED = 4.0
#: Fewer steps than this say nothing.
STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Rates that a ramp suggests; ``end`` is where it diverged, None if it went on to its highest rate."""

    lr: float
    steepest: float
    tenth: float
    lowest_loss: float
    end: float | None


def smooth(losses: Sequence[float], beta: float) -> list[float]:
    """Return the exponential moving average of losses, corrected for its start."""
    value, made = 0.0, []
    for n, loss in enumerate(losses, 1):
        value = beta * value + (1.0 - beta) * loss
        made.append(value / (1.0 - beta**n))
    return made


def diverged(losses: Sequence[float], beta: float) -> int | None:
    """Return how many steps went well before the smoothed loss diverged, or None if it did not."""
    lowest = math.inf
    for at, (loss, value) in enumerate(zip(losses, smooth(losses, beta), strict=True)):
        if not math.isfinite(loss) or (at and value > DIVERGED * lowest):
            return at
        lowest = min(lowest, value)
    return None


def suggest(rates: Sequence[float], losses: Sequence[float], beta: float) -> Suggestion:
    """Return what the losses [N] at rising rates [N] suggest.

    Raises:
        TriptychError: if it diverged at once, or the loss never fell.
    """
    end = diverged(losses, beta)
    count = len(losses) if end is None else end
    if count < STEPS:
        raise TriptychError(
            f"the loss diverged after {count} steps, at a rate of {rates[max(count - 1, 0)]:.2g}: begin "
            "lower (lowest) or take more steps"
        )
    values = smooth(losses[:count], beta)
    low = min(range(count), key=values.__getitem__)
    # A slope over several steps: one between neighbours is mostly the batches' noise.
    reach = max(1, count // 20)
    slopes = {
        at: (values[at + reach] - values[at - reach])
        / (math.log(rates[at + reach]) - math.log(rates[at - reach]))
        for at in range(reach, min(low + 1, count - reach))
    }
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    if steepest is None or slopes[steepest] >= 0:
        raise TriptychError(
            f"the loss never fell between rates of {rates[0]:.2g} and {rates[count - 1]:.2g}; begin lower "
            "(lowest), take more steps, or look at the data"
        )
    tenth = rates[low] / 10
    return Suggestion(
        lr=min(rates[steepest], tenth),
        steepest=rates[steepest],
        tenth=tenth,
        lowest_loss=values[low],
        end=None if end is None else rates[end],
    )

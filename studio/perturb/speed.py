"""A sound played faster or slower; its pitch changes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.augment import speed

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (5.0, 10.0, 20.0, 30.0, 40.0)
UNIT = "per cent faster, or slower by the same ratio"
#: Seconds above which a sound is only made faster: slower it might no longer fit a model's window.
LONG = 5.0


def perturb(samples: Samples, draw: Draw, level: float, rate: int) -> Samples:
    """Return the sound [T] as one [T / f], where f or 1 / f is ``1 + level / 100``; which one is drawn."""
    slower = draw.random() < 0.5 and len(samples) <= LONG * rate
    factor = 1 + level / 100
    factor = 1 / factor if slower else factor
    return speed.augment(samples, draw, rate, factor=(factor, factor))

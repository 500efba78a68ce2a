"""A sound recorded far too softly: what is lost is lost in 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.augment import gain

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (-10.0, -20.0, -30.0, -40.0, -50.0)
UNIT = "dB"


def perturb(samples: Samples, draw: Draw, level: float, rate: int) -> Samples:
    """Return the sound [T] softer by so many decibels."""
    return gain.augment(samples, draw, rate, db=(level, level))

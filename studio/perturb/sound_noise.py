"""White noise under a sound, by its signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.augment import noise

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (20.0, 15.0, 10.0, 5.0, 0.0)
UNIT = "dB from the noise up to the sound"


def perturb(samples: Samples, draw: Draw, level: float, rate: int) -> Samples:
    """Return the sound [T] with white noise ``level`` decibels below it; silence stays silent."""
    return noise.augment(samples, draw, rate, snr=(level, level))

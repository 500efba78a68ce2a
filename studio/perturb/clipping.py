"""A sound recorded too loudly: its peaks are cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4)
UNIT = "share of the samples that are cut off"


def perturb(samples: Samples, draw: Draw, level: float, rate: int) -> Samples:
    """Return the sound [T] held at the loudness that this share of its samples goes beyond."""
    loud = np.abs(samples)
    heard = loud[loud > 0]
    if not len(heard):
        return samples
    most = float(np.quantile(heard, 1 - level))
    return np.clip(samples, -most, most)

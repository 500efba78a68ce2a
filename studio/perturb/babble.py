"""Voices behind a sound: a mix of the sounds of three other rows (as MUSAN's, Snyder et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (20.0, 15.0, 10.0, 5.0, 0.0)
UNIT = "dB from the voices up to the sound"


def perturb(samples: Samples, draw: Draw, level: float, rate: int, others: Sequence[Samples]) -> Samples:
    """Return the sound [T] with the ``others``, each as loud, mixed ``level`` decibels below it.

    Shorter ones are repeated from a place that is drawn. Silence stays silent, and without a sound of another
    row that is no silence nothing is mixed.
    """
    mixed = np.zeros(len(samples), dtype=np.float32)
    for other in others:
        power = float(np.mean(np.square(other))) ** 0.5
        shift = int(draw.integers(1 << 30))
        if power > 0:
            mixed += np.resize(np.roll(other, shift), len(samples)) / power
    own, theirs = (float(np.mean(np.square(each))) ** 0.5 for each in (samples, mixed))
    if not own or not theirs:
        return samples
    made = samples + mixed * (own / theirs * 10 ** (-level / 20))
    return np.asarray(made / max(1.0, float(np.abs(made).max())), dtype=np.float32)

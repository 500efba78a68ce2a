"""Play a sound faster or slower; its pitch changes with it (Ko et al. 2015, Audio augmentation)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from studio.media import Samples


def augment(
    samples: Samples, draw: Draw, rate: int, *, factor: Annotated[Span, Between(0.5, 2.0)] = (0.9, 1.1)
) -> Samples:
    """Return the sound [T] as one [T / f] that is ``f`` times as fast.

    ``f`` is drawn in hundredths: a ratio of small numbers is what resampling is cheap for.
    """
    hundredths = round(100 * draw.uniform(*factor))
    if hundredths == 100:
        return samples
    import torch
    from torchaudio.functional import resample

    changed = resample(torch.from_numpy(np.ascontiguousarray(samples)), hundredths, 100)
    return np.asarray(changed.clamp_(-1.0, 1.0).numpy(), dtype=np.float32)

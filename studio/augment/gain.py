"""Make a sound louder or softer by some decibels; never so loud that it clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from studio.media import Samples


def augment(
    samples: Samples, draw: Draw, rate: int, *, db: Annotated[Span, Between(-60, 60)] = (-6.0, 6.0)
) -> Samples:
    """Return the sound [T] with a gain drawn from ``db``, or the one that brings its peak to full scale."""
    import torch
    from torchaudio.functional import gain

    peak = float(np.abs(samples).max(initial=0.0))
    chosen = draw.uniform(*db)
    if peak > 0:
        chosen = min(chosen, -20 * np.log10(peak))
    changed = gain(torch.from_numpy(np.ascontiguousarray(samples)), float(chosen))
    return np.asarray(changed.clamp_(-1.0, 1.0).numpy(), dtype=np.float32)

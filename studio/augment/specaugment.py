"""Mask bands and stretches of a sound's features (SpecAugment, Park et al. 2019, arXiv:1904.08779)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from studio.augment._settings import Between, Draw

if TYPE_CHECKING:
    from torch import Tensor


def augment(
    features: Tensor,
    draw: Draw,
    *,
    bands: Annotated[int, Between(0, 16)] = 2,
    band: Annotated[float, Between(0.0, 1.0)] = 0.15,
    stretches: Annotated[int, Between(0, 64)] = 2,
    stretch: Annotated[float, Between(0.0, 1.0)] = 0.05,
) -> Tensor:
    """Return features [C, T] with masks of their mean: up to a share ``band`` of C, ``stretch`` of T, each.

    Warping in time, the paper's third part, is left out: it adds least (section 5) and `speed` does as much.
    """
    import torch
    from torchaudio.functional import mask_along_axis

    channels, frames = features.shape
    # The masks are drawn by torch: from a seed of ours, and without a trace in its own state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draw.integers(1 << 62)))
        masked = features[None]
        middle = float(features.mean())
        for axis, count, width in ((1, bands, band * channels), (2, stretches, stretch * frames)):
            for _ in range(count if width >= 1 else 0):
                masked = mask_along_axis(masked, round(width) + 1, middle, axis)
    return masked[0]

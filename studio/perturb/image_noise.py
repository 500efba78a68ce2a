"""Gaussian noise on every pixel, as of a sensor in the dark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (0.08, 0.12, 0.18, 0.26, 0.38)
UNIT = "deviation as a share of full brightness"


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture with noise of this deviation on each value (ImageNet-C's levels)."""
    from PIL import Image

    values = np.asarray(picture, dtype=np.float32) / 255
    noisy = values + level * draw.standard_normal(values.shape).astype(np.float32)
    return Image.fromarray(np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8))

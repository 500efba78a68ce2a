"""A picture out of focus: convolved with a Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.augment import blur
from studio.perturb._levels import like_224

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (1.0, 2.0, 3.0, 4.0, 6.0)
UNIT = "pixels of deviation in a picture whose shorter side is 224"


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture blurred, its deviation scaled with its size (ImageNet-C's levels)."""
    radius = level * like_224(picture)
    return blur.augment(picture, draw, radius=(radius, radius))

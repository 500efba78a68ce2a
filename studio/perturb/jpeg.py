"""A picture that was stored as a JPEG of low quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.augment import jpeg

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (25.0, 18.0, 15.0, 10.0, 7.0)
UNIT = "JPEG quality of 100"


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture after one round through JPEG (ImageNet-C's levels)."""
    return jpeg.augment(picture, draw, quality=(int(level), int(level)))

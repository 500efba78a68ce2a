"""A picture that stands askew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (5.0, 10.0, 15.0, 22.0, 30.0)
UNIT = "degrees, to a side that is drawn"


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture turned about its middle in its own size; corners get the colour of its edge."""
    from PIL import Image

    values = np.asarray(picture)
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    red, green, blue = (round(float(each)) for each in np.median(edge, axis=0))
    angle = level if draw.random() < 0.5 else -level
    return picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(red, green, blue))

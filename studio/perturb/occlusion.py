"""A grey box in front of a part of a picture (Zeiler and Fergus 2014, arXiv:1311.2901)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (0.02, 0.05, 0.1, 0.18, 0.3)
UNIT = "share of the picture's area"


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture behind a box of its own proportions; a larger box holds the smaller ones."""
    wide, high = (max(1, round(side * level**0.5)) for side in picture.size)
    across, down = draw.random(2)
    made = picture.copy()
    left, top = round(across * (picture.width - wide)), round(down * (picture.height - high))
    made.paste((127, 127, 127), (left, top, left + wide, top + high))
    return made

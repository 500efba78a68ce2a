"""Mirror a picture, where no label says where something is or what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from studio.augment._settings import Draw

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: A mirror makes words untrue; which ones, only the user knows.
NEEDS_LABELS = True


def augment(
    picture: Picture, draw: Draw, *, axis: Literal["horizontal", "vertical", "either"] = "horizontal"
) -> Picture:
    """Return the mirrored picture: left and right change places, or top and bottom (``vertical``)."""
    from PIL import ImageOps

    chosen = axis if axis != "either" else ("horizontal", "vertical")[draw.integers(2)]
    return ImageOps.mirror(picture) if chosen == "horizontal" else ImageOps.flip(picture)

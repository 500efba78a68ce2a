"""Store a picture as JPEG and read it again, with the marks that leaves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated

from studio.augment._settings import Between, Draw

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def augment(
    picture: Picture, draw: Draw, *, quality: Annotated[tuple[int, int], Between(1, 100)] = (40, 90)
) -> Picture:
    """Return the picture as it is after one round through JPEG; ``quality`` 100 hardly changes it."""
    from PIL import Image

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(draw.integers(quality[0], quality[1] + 1)))
    buffer.seek(0)
    with Image.open(buffer) as read:
        return read.convert("RGB")

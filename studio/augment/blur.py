"""Blur a picture as a lens out of focus does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def augment(
    picture: Picture, draw: Draw, *, radius: Annotated[Span, Between(0.0, 50.0)] = (0.2, 1.5)
) -> Picture:
    """Return the picture convolved with a Gaussian whose deviation is ``radius`` pixels."""
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(float(draw.uniform(*radius))))

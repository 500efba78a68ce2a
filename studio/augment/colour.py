"""Change a picture's brightness, contrast and saturation, in an order that is drawn, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def augment(
    picture: Picture,
    draw: Draw,
    *,
    brightness: Annotated[Span, Between(0.1, 4.0)] = (0.8, 1.2),
    contrast: Annotated[Span, Between(0.1, 4.0)] = (0.8, 1.2),
    saturation: Annotated[Span, Between(0.0, 4.0)] = (0.8, 1.2),
) -> Picture:
    """Return the picture with each of the three multiplied by a factor; 1 leaves it as it is."""
    from PIL import ImageEnhance

    kinds = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    for at in draw.permutation(len(kinds)):
        kind, span = kinds[at]
        picture = kind(picture).enhance(float(draw.uniform(*span)))
    return picture

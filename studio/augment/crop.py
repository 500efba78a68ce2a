"""Cut a part out of a picture and bring it to the old size, so that it needs as many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def augment(
    picture: Picture,
    draw: Draw,
    *,
    share: Annotated[Span, Between(0.05, 1.0)] = (0.8, 1.0),
    aspect: Annotated[Span, Between(0.25, 4.0)] = (0.9, 1.1),
) -> Picture:
    """Return a part with a ``share`` of the area, its sides ``aspect`` times as far apart as they were.

    What stands at the edge may be gone; ``labels`` can name the words that tell of places.
    """
    from PIL import Image

    area, form = draw.uniform(*share), draw.uniform(*aspect) ** 0.5
    width, height = picture.size
    wide = max(1, min(width, round(width * area**0.5 * form)))
    high = max(1, min(height, round(height * area**0.5 / form)))
    left, top = int(draw.integers(width - wide + 1)), int(draw.integers(height - high + 1))
    box = (left, top, left + wide, top + high)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)

"""A word written over a picture, as of a stamp or a sticker (Goh et al. 2021, Multimodal neurons)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from studio.augment._settings import Draw

LEVELS = (0.1, 0.15, 0.2, 0.3, 0.4)
UNIT = "height of the letters as a share of the picture's"
WORDS = ("SAMPLE", "DRAFT", "COPY", "PREVIEW", "ARCHIVE", "SCANNED", "PAID", "URGENT")


def perturb(picture: Picture, draw: Draw, level: float) -> Picture:
    """Return the picture with a word across it, white with a black edge, at a height that is drawn."""
    from PIL import ImageDraw, ImageFont

    word, place = WORDS[draw.integers(len(WORDS))], draw.uniform(0.25, 0.75)
    made = picture.copy()
    size = max(4.0, level * picture.height)
    ImageDraw.Draw(made).text(
        (picture.width / 2, place * picture.height), word, "white", font=ImageFont.load_default(size),
        anchor="mm", stroke_width=max(1, round(size / 12)), stroke_fill="black",
    )  # fmt: skip
    return made

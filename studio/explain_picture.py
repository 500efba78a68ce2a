"""An explanation as one PNG, drawn by PIL: pictures with their heat, sounds with spans, coloured words."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from studio.explain import Explanation
from studio.explain_units import Unit
from studio.explain_words import parts, sentences, title
from studio.heatmap_picture import ABOVE, BELOW, INK, MARGIN, PAPER, REST, SOFT, Colour
from studio.media import load_image, read_sound
from studio.types import Image as Picture
from studio.types import Sample, Sound

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

WIDE, HALF, GAP = 980, 470, 24
"""Pixels of the sheet between its margins, of one picture on it, and between parts."""
_WAVE, _BAR = 120, 18
_COVER = 0.8  # how much the strongest heat covers of a picture


def strength(explained: Explanation) -> list[float]:
    """Return each weight as a share of the largest one, from -1 to 1."""
    most = max((abs(weight) for weight in explained.weights), default=0) or 1.0
    return [weight / most for weight in explained.weights]


def picture(explained: Explanation, sample: Sample, variant: str = "", against: str = "") -> bytes:
    """Return the explanation of a sample's answer as a PNG's bytes, in the page's light colours."""
    from PIL import Image, ImageDraw, ImageFont

    fonts = [ImageFont.load_default(size) for size in (26, 20, 17)]
    sheet = Image.new("RGB", (WIDE + 2 * MARGIN, 6000), PAPER)
    drawn = _Sheet(sheet, ImageDraw.Draw(sheet), fonts, MARGIN)
    drawn.text(f'Why "{explained.answer.strip() or "(nothing)"}"', fonts[0], INK)
    name, other = variant or explained.variant, against or explained.against
    how = f"{name} rather than {other}" if other else name
    drawn.text(f"{how}; {explained.method}, {explained.passes} forward passes", fonts[2], SOFT)
    drawn.top += 8
    for sentence in sentences(explained, variant, against):
        drawn.text(sentence, fonts[1], INK)
    drawn.top += GAP
    shares = strength(explained)
    for key, places in parts(explained).items():
        part = sample.prompt[key[1]].parts[key[2]]
        units, own = [explained.units[at] for at in places], [shares[at] for at in places]
        drawn.text(title(explained, key).removeprefix("the ").capitalize(), fonts[1], SOFT)
        if isinstance(part, Picture):
            drawn.regions(part, units, own)
        elif isinstance(part, Sound):
            drawn.spans(part, units, own)
        else:
            drawn.words(units, own)
        drawn.top += GAP
    drawn.key(max((abs(weight) for weight in explained.weights), default=0))
    out = BytesIO()
    sheet.crop((0, 0, sheet.width, min(drawn.top + MARGIN, sheet.height))).save(out, "PNG", optimize=True)
    return out.getvalue()


def overlay(part: Picture, units: Sequence[Unit], shares: Sequence[float], most: int = HALF) -> Image:
    """Return a picture under its heat, its longer side ``most`` pixels long.

    What says nothing is shown in grey, so that no colour but the heat's speaks.
    """
    from PIL import Image

    plain = load_image(part.path)
    width, height = plain.size
    scale = most / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = np.asarray(plain.convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)
    pixels = np.repeat(grey[..., None] * 0.7 + 64, 3, axis=2)
    for unit, share in zip(units, shares, strict=True):
        left, top, right, bottom = (round(each * scale) for each in unit.place)
        cover = _COVER * abs(share)
        colour = np.array(ABOVE if share > 0 else BELOW, np.float32)
        pixels[top:bottom, left:right] = (1 - cover) * pixels[top:bottom, left:right] + cover * colour
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def png(image: Image) -> bytes:
    """Return a picture as a PNG's bytes."""
    out = BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def outline(part: Sound, points: int) -> list[float]:
    """Return how loud a sound is at so many places along it, each from 0 to 1."""
    wave, _ = read_sound(part.path)
    loud = [float(np.abs(piece).max()) if len(piece) else 0.0 for piece in np.array_split(wave, points)]
    most = max(loud) or 1.0
    return [each / most for each in loud]


def tint(share: float) -> Colour:
    """Return the colour of a share from -1 to 1 on paper."""
    colour = ABOVE if share > 0 else BELOW
    red, green, blue = (round(a + (b - a) * abs(share)) for a, b in zip(REST, colour, strict=True))
    return red, green, blue


class _Sheet:
    """What is drawn from top to bottom."""

    def __init__(self, image: Image, draw: ImageDraw, fonts: Sequence[Font], top: int) -> None:
        self._image, self._draw, self._fonts, self.top = image, draw, fonts, top

    def text(self, text: str, font: Font, colour: Colour) -> None:
        """Write a paragraph, cut at the edge."""
        line = ""
        for word in [*text.split(), None]:
            longer = f"{line} {word}".strip() if word is not None else line
            if word is None or (line and font.getlength(longer) > WIDE):
                self._draw.text((MARGIN, self.top), line, colour, font=font)
                self.top += round(font.getbbox("Ag")[3] * 1.3)
                longer = word or ""
            line = longer

    def regions(self, part: Picture, units: Sequence[Unit], shares: Sequence[float]) -> None:
        """Put the picture beside itself under its heat."""
        from PIL import Image

        heat = overlay(part, units, shares)
        plain = load_image(part.path).resize(heat.size, Image.Resampling.BICUBIC)
        self._image.paste(plain, (MARGIN, self.top))
        self._image.paste(heat, (MARGIN + WIDE - HALF, self.top))
        self.top += heat.height

    def spans(self, part: Sound, units: Sequence[Unit], shares: Sequence[float]) -> None:
        """Draw the wave over its spans, and a scale of seconds."""
        end = units[-1].place[1] or 1.0
        for unit, share in zip(units, shares, strict=True):
            left, right = (MARGIN + round(each / end * WIDE) for each in unit.place)
            self._draw.rectangle((left, self.top, right - 2, self.top + _WAVE), tint(share))
        middle = self.top + _WAVE / 2
        for at, loud in enumerate(outline(part, WIDE // 2)):
            x, tall = MARGIN + 2 * at, loud * (_WAVE / 2 - 6)
            self._draw.line((x, middle - tall, x, middle + tall), INK, 1)
        self.top += _WAVE + 6
        for place in (0.0, end / 2, end):
            anchor = "la" if not place else "ra" if place == end else "ma"
            x = MARGIN + round(place / end * WIDE)
            self._draw.text((x, self.top), f"{place:.1f} s", SOFT, font=self._fonts[2], anchor=anchor)
        self.top += 24

    def words(self, units: Sequence[Unit], shares: Sequence[float]) -> None:
        """Write the words on their colours."""
        font, x, tall = self._fonts[1], 0, 34
        for unit, share in zip(units, shares, strict=True):
            wide = min(round(font.getlength(unit.text)) + 16, WIDE)
            if x and x + wide > WIDE:
                x, self.top = 0, self.top + tall + 6
            box = (MARGIN + x, self.top, MARGIN + x + wide, self.top + tall)
            self._draw.rounded_rectangle(box, 6, tint(share))
            ink = (255, 255, 255) if abs(share) > 0.6 else INK
            self._draw.text((MARGIN + x + 8, self.top + tall // 2), unit.text, ink, font=font, anchor="lm")
            x += wide + 6
        self.top += tall

    def key(self, most: float) -> None:
        """Draw the bar of colours with what they mean."""
        font, wide = self._fonts[2], 300
        for at in range(wide):
            left = MARGIN + at
            self._draw.line((left, self.top, left, self.top + _BAR), tint(2 * at / (wide - 1) - 1), 1)
        for x, anchor, text in (
            (0, "la", f"-{most:.2f}"),
            (wide / 2, "ma", "0"),
            (wide, "ra", f"+{most:.2f}"),
        ):
            self._draw.text((MARGIN + x, self.top + _BAR + 6), text, SOFT, font=font, anchor=anchor)
        said = "nats of log p: against the answer (left), for it (right)"
        self._draw.text((MARGIN + wide + 16, self.top + _BAR // 2), said, SOFT, font=font, anchor="lm")
        self.top += _BAR + 30

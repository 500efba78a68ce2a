"""Heat maps as one PNG, drawn by PIL: for cards, slides and messages that take no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from studio.heatmap import HeatMap

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

Colour = tuple[int, int, int]
PAPER: Colour = (251, 250, 248)
INK: Colour = (28, 35, 48)
SOFT: Colour = (95, 107, 125)
REST: Colour = (238, 236, 230)
ABOVE: Colour = (18, 102, 107)
BELOW: Colour = (179, 80, 29)

MARGIN, HEAD, GAP = 48, 84, 4
TALL, LOW = 44, 30
WIDE, NARROW = 92, 26  # a cell with a number in it, and one without
NAMED = 30  # characters of a name that are shown
LONG = 12  # of a column's


def picture(maps: Sequence[HeatMap]) -> bytes:
    """Return the heat maps below each other as a PNG's bytes, in the page's light colours."""
    from PIL import Image, ImageDraw, ImageFont

    title, text, small = (ImageFont.load_default(size) for size in (26, 20, 17))
    left = MARGIN + max((int(text.getlength(_cut(n, NAMED))) for m in maps for n in m.rows), default=0) + 16
    wide = max((left + len(m.columns) * _width(m) + MARGIN for m in maps), default=0)
    wide = max(wide, *(int(small.getlength(m.note)) + 2 * MARGIN for m in maps), 640)
    tall = MARGIN + sum(_height(m) for m in maps)
    image = Image.new("RGB", (wide, tall), PAPER)
    draw = ImageDraw.Draw(image)
    top = MARGIN
    for map in maps:
        draw.text((MARGIN, top), map.title, INK, font=title)
        draw.text((MARGIN, top + 34), map.note, SOFT, font=small)
        _grid(draw, map, left, top + HEAD, text, small)
        top += _height(map)
    out = BytesIO()
    image.quantize(128).save(out, "PNG", optimize=True)
    return out.getvalue()


def _grid(draw: ImageDraw, map: HeatMap, left: int, top: int, text: Font, small: Font) -> None:
    width, tall, step = _width(map), _tall(map), 1 if map.numbered else 4
    for j, name in enumerate(map.columns):
        if j % step == 0:
            middle = left + j * width + width // 2
            draw.text((middle, top - 8), _cut(name, LONG), SOFT, font=small, anchor="ms")
    for i, (name, values) in enumerate(zip(map.rows, map.values, strict=True)):
        y = top + i * (tall + GAP)
        draw.text((left - 12, y + tall // 2), _cut(name, NAMED), INK, font=text, anchor="rm")
        for j, value in enumerate(values):
            if value is None:
                continue
            x = left + j * width
            strength = map.strength(value)
            box = (x, y, x + width - GAP, y + tall)
            draw.rounded_rectangle(
                box, 6 if map.numbered else 3, _mix(abs(strength), ABOVE if strength > 0 else BELOW)
            )
            if map.numbered:
                ink = (255, 255, 255) if abs(strength) > 0.6 else INK
                place = ((box[0] + box[2]) // 2, y + tall // 2)
                draw.text(place, map.form.format(value), ink, font=small, anchor="mm")


def _mix(share: float, colour: Colour) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(REST, colour, strict=True))
    return red, green, blue


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _width(map: HeatMap) -> int:
    longest = max((min(len(name), LONG) for name in map.columns), default=0)
    return max(WIDE, 12 * longest) if map.numbered else NARROW


def _tall(map: HeatMap) -> int:
    return TALL if map.numbered else LOW


def _height(map: HeatMap) -> int:
    return HEAD + len(map.rows) * (_tall(map) + GAP) + MARGIN

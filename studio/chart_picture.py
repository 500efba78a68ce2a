"""Charts as one PNG, drawn by PIL: for cards, slides and messages that take no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from studio.chart import ABOVE, BELOW, COLOURS, HEIGHT, LEFT, RIGHT, WIDTH, Chart, number, position
from studio.heatmap_picture import INK, PAPER, SOFT, Colour

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

GRID: Colour = (228, 226, 220)
#: Pixels of a unit: drawn at `FINE` times the size, then made smaller, so that lines are smooth.
SCALE, FINE = 1.5, 2
HEAD, FOOT, MARGIN = 66, 30, 24


def picture(charts: Sequence[Chart]) -> bytes:
    """Return the charts below each other as a PNG's bytes, in the page's light colours."""
    from PIL import Image, ImageDraw, ImageFont

    unit = SCALE * FINE
    title, text = (ImageFont.load_default(size * unit) for size in (15, 11))
    tall = HEAD + HEIGHT + FOOT
    size = (int((WIDTH + 2 * MARGIN) * unit), int((tall * len(charts) + MARGIN) * unit))
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    for at, chart in enumerate(charts):
        _Drawing(draw, chart, MARGIN, at * tall + MARGIN, title, text).all()
    out = BytesIO()
    small = image.resize((size[0] // FINE, size[1] // FINE), Image.Resampling.LANCZOS)
    small.quantize(128).save(out, "PNG", optimize=True)
    return out.getvalue()


class _Drawing:
    """One chart with its head, its axes and its key."""

    def __init__(
        self, draw: ImageDraw, chart: Chart, left: float, top: float, title: Font, text: Font
    ) -> None:
        self._draw, self._chart, self._title, self._text = draw, chart, title, text
        self._left, self._top = left, top

    def all(self) -> None:
        """Draw everything."""
        chart = self._chart
        self._word(0, 0, chart.title, INK, "la", self._title)
        self._word(0, 24, chart.note, SOFT)
        if not any(points for _, points in chart.drawn):
            self._word(0, HEAD, "nothing yet", SOFT)
            return
        bottom, right = HEIGHT - BELOW, WIDTH - RIGHT
        for tick in chart.up.ticks():
            y = position(chart, chart.across.low, tick)[1]
            self._line([(LEFT, y), (right, y)], GRID, 1)
            self._word(LEFT - 8, HEAD + y, number(tick), SOFT, "rm")
        for tick in chart.across.ticks():
            x = position(chart, tick, chart.up.low)[0]
            self._word(x, HEAD + bottom + 8, number(tick), SOFT, "ma")
        self._word(right, HEAD + HEIGHT - 14, chart.x, SOFT, "ra")
        for at, name in chart.marks:
            x = position(chart, at, chart.up.low)[0]
            if LEFT - 1 <= x <= right + 1:
                self._line([(x, ABOVE), (x, bottom)], SOFT, 1)
                late = x > 0.7 * WIDTH
                self._word(x + (-5 if late else 5), HEAD + ABOVE, name, SOFT, "ra" if late else "la")
        self._lines()

    def _lines(self) -> None:
        chart, along = self._chart, 0.0
        for line, points in chart.drawn:
            colour = _rgb(COLOURS[chart.colour(line)])
            places = [position(chart, x, y) for x, y in points]
            if line.dots:
                for x, y in places:
                    self._dot(x, y, colour)
            elif len(places) > 1:
                self._line(places, _pale(colour) if line.faint else colour, 1 if line.faint else 2)
            if not line.faint and len([other for other in chart.lines if not other.faint]) > 1:
                self._line([(along, HEIGHT + 9), (along + 16, HEIGHT + 9)], colour, 3)
                self._word(along + 22, HEAD + HEIGHT + 9, line.name, SOFT, "lm")
                along += 40 + self._text.getlength(line.name) / (SCALE * FINE)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        unit = SCALE * FINE
        return (self._left + x) * unit, (self._top + y) * unit

    def _line(self, places: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        moved = [self._at(x, HEAD + y) for x, y in places]
        self._draw.line(moved, colour, round(width * SCALE * FINE), joint="curve")

    def _dot(self, x: float, y: float, colour: Colour) -> None:
        (left, top), (right, bottom) = self._at(x - 4, HEAD + y - 4), self._at(x + 4, HEAD + y + 4)
        self._draw.ellipse((left, top, right, bottom), colour)

    def _word(
        self, x: float, y: float, text: str, colour: Colour, anchor: str = "la", font: Font | None = None
    ) -> None:
        self._draw.text(self._at(x, y), text, colour, font=font or self._text, anchor=anchor)


def _rgb(text: str) -> Colour:
    red, green, blue = (int(text[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def _pale(colour: Colour) -> Colour:
    red, green, blue = (round(0.35 * a + 0.65 * b) for a, b in zip(colour, PAPER, strict=True))
    return red, green, blue

"""Line charts and scatters: curves of a run as a figure of a page that is light and dark, or as a picture.

loss = Line(name="training loss", points=[(1, 2.3), (2, 1.9)])
chart = Chart(title="Loss", x="step", y="loss", lines=(loss,))
page("Report", [drawing(chart)], STYLE)    # `page` of studio.heatmap: one self-contained HTML page
picture([chart])                           # `picture` of studio.chart_picture: PNG
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

#: A line of more points than this is drawn as the means of so many stretches.
POINTS = 400
#: The size of a drawing in its own units, and what the axes' labels take of it on the left and below.
WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 640, 280, 64, 40, 10, 12
#: Colours of the lines in order, in light and in dark.
COLOURS = ("#12666b", "#b3501d", "#6b4a8e", "#4d7c0f", "#93721a", "#5f6b7d")
DARK = ("#5cc4c8", "#f0955c", "#b79ad6", "#a3c95c", "#dcc06a", "#98a2b3")

STYLE = (
    ":root{"
    + "".join(f"--c{i}:{colour};" for i, colour in enumerate(COLOURS))
    + "}@media(prefers-color-scheme:dark){:root{"
    + "".join(f"--c{i}:{colour};" for i, colour in enumerate(DARK))
    + "}}"
    """
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));
gap:1rem;margin:1.4rem 0}
.charts figure{margin:0;min-width:0}.chart svg{display:block;width:100%;height:auto;overflow:visible}
.chart text{font:13px system-ui,sans-serif;fill:var(--soft)}.chart .grid{stroke:var(--line)}
.chart path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round;
vector-effect:non-scaling-stroke}
.chart path.faint{stroke-width:1;opacity:.35}.chart .mark{stroke:var(--soft);stroke-dasharray:4 4}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:.5rem;font-size:.85rem;color:var(--soft)}
.key i{display:inline-block;width:1rem;height:.2rem;border-radius:2px;vertical-align:middle;
margin-right:.4rem}
"""
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points (x, y) that belong together; those with a number that is not finite are left out.

    ``dots`` draws each point by itself instead of a line; ``faint`` stays behind the others; ``colour`` is
    a place in `COLOURS`, by default that of the line among its chart's.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    faint: bool = False
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the same axes; ``marks`` are named places on the x axis (a best step, a suggested rate).

    ``log_x`` and ``log_y`` draw ratios as distances; points that are not above 0 are then left out.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[tuple[float, str]] = ()

    @cached_property
    def drawn(self) -> tuple[tuple[Line, tuple[tuple[float, float], ...]], ...]:
        """Each line with the points that are drawn, thinned where there are many."""
        return tuple((line, self._shown(line)) for line in self.lines)

    def colour(self, line: Line) -> int:
        """Return the place of a line's colour in `COLOURS`."""
        at = line.colour if line.colour is not None else list(self.lines).index(line)
        return at % len(COLOURS)

    @cached_property
    def across(self) -> Axis:
        """The x axis."""
        return Axis.over((x for _, points in self.drawn for x, _ in points), log=self.log_x, tight=True)

    @cached_property
    def up(self) -> Axis:
        """The y axis."""
        return Axis.over((y for _, points in self.drawn for _, y in points), log=self.log_y)

    def _shown(self, line: Line) -> tuple[tuple[float, float], ...]:
        points = [
            (float(x), float(y))
            for x, y in line.points
            if math.isfinite(x)
            and math.isfinite(y)
            and (x > 0 or not self.log_x)
            and (y > 0 or not self.log_y)
        ]
        return tuple(points if line.dots else thinned(points))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of numbers and where they stand on a line from 0 to 1."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterator[float], *, log: bool, tight: bool = False) -> Axis:
        """Return the axis that holds all values; one that is not ``tight`` leaves some room."""
        found = list(values) or [1.0, 10.0]
        low, high = min(found), max(found)
        if log:
            room = 1.0 if tight else (high / low) ** 0.05
            return (
                cls(low=low / room, high=high * room, log=True)
                if high > low
                else cls(low=low / 2, high=high * 2, log=True)
            )
        room = 0.0 if tight else 0.05 * (high - low)
        if high == low:
            room = abs(high) * 0.1 or 1.0
        return cls(low=low - room, high=high + room)

    def place(self, value: float) -> float:
        """Return where a value stands, 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round numbers to name along the axis, about ``count``."""
        if self.log and self.high / self.low >= 30:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, -(-(last - first + 1) // (count + 1)))
            return [10.0**power for power in range(first, last + 1, every)]
        step = _round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [at * step for at in range(first, last + 1) if not self.log or at > 0]


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Return the points, or the means of ``most`` stretches of them if they are more."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * i // most for i in range(most + 1)]
    means = []
    for begin, end in pairwise(edges):
        part = points[begin:end]
        means.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return means


def smoothed(points: Sequence[tuple[float, float]], beta: float = 0.9) -> list[tuple[float, float]]:
    """Return the exponential moving average of the points' y, corrected for its start."""
    value, made = 0.0, []
    for n, (x, y) in enumerate(points, 1):
        value = beta * value + (1.0 - beta) * y
        made.append((x, value / (1.0 - beta**n)))
    return made


def number(value: float) -> str:
    """Return a number as an axis names it: 0.25, 3,000, 1e-05."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def drawing(chart: Chart) -> str:
    """Return a chart as an HTML figure with a drawing in SVG, or with a word if there is nothing to draw."""
    told = f"<b>{html.escape(chart.title)}</b><span>{html.escape(chart.note)}</span>"
    if not any(points for _, points in chart.drawn):
        return (
            f'<figure class="chart"><figcaption>{told}</figcaption><p class="soft">nothing yet</p></figure>'
        )
    shapes = "".join(_shapes(chart))
    named = [line for line in chart.lines if not line.faint]
    keys = "".join(
        f'<span><i style="background:var(--c{chart.colour(line)})"></i>{html.escape(line.name)}</span>'
        for line in named
    )
    label = html.escape(f"{chart.title}: {chart.y} by {chart.x}")
    return (
        f'<figure class="chart"><figcaption>{told}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{shapes}</svg>'
        f'<div class="key">{keys if len(named) > 1 else ""}</div></figure>'
    )


def position(chart: Chart, x: float, y: float) -> tuple[float, float]:
    """Return where a point of the chart stands in its drawing, in units from the upper left."""
    across = LEFT + chart.across.place(x) * (WIDTH - LEFT - RIGHT)
    return across, ABOVE + (1.0 - chart.up.place(y)) * (HEIGHT - ABOVE - BELOW)


def _shapes(chart: Chart) -> Iterator[str]:
    bottom, right = HEIGHT - BELOW, WIDTH - RIGHT
    for tick in chart.up.ticks():
        y = position(chart, chart.across.low, tick)[1]
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick in chart.across.ticks():
        x = position(chart, tick, chart.up.low)[0]
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{number(tick)}</text>'
    yield f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(chart.x)}</text>'
    for at, name in chart.marks:
        x = position(chart, at, chart.up.low)[0]
        if LEFT - 1 <= x <= right + 1:
            end = ' text-anchor="end"' if x > 0.7 * WIDTH else ""
            yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{ABOVE}" y2="{bottom}"/>'
            shift = -5 if end else 5
            yield f'<text x="{x + shift:.1f}" y="{ABOVE + 10}"{end}>{html.escape(name)}</text>'
    for line, points in chart.drawn:
        places = [position(chart, x, y) for x, y in points]
        colour = f"var(--c{chart.colour(line)})"
        if line.dots:
            for (x, y), (a, b) in zip(places, points, strict=True):
                told = html.escape(f"{line.name}: {number(a)}, {number(b)}")
                where = f'cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"'
                yield f"<circle {where}><title>{told}</title></circle>"
        elif places:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            faint = ' class="faint"' if line.faint else ""
            yield f'<path{faint} stroke="{colour}" d="M{path}"/>'


def _round_step(rough: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))

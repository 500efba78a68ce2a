"""A history as pictures: each figure of all variants over time, with what regressed marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio.chart import COLOURS, STYLE, Chart, Line, drawing
from studio.chart_picture import picture
from studio.files import atomic_write
from studio.heatmap import page
from studio.watch_history import Entry, times

PAGE, PICTURE = "scores.html", "scores.png"
_DAYS = 72.0  # hours from which on an axis counts days


def charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return a chart for each figure: the values of every variant, with a mark where one regressed.

    Where there are more variants than colours, those that changed last are drawn.
    """
    scored = [(hours, entry) for hours, entry in times(list(entries)) if entry["kind"] == "scores"]
    figures = dict.fromkeys(figure for _, entry in scored for figure in entry["figures"])
    late = list(dict.fromkeys(str(entry["variant"]) for _, entry in reversed(scored)))
    shown = sorted(late[: len(COLOURS)])
    long = max((hours for hours, _ in scored), default=0.0) >= _DAYS
    unit = 24.0 if long else 1.0
    made = []
    for figure in figures:
        lines, marks = [], []
        for colour, variant in enumerate(shown):
            own = [(h / unit, e) for h, e in scored if e["variant"] == variant and figure in e["figures"]]
            points = [(at, float(entry["figures"][figure]["value"])) for at, entry in own]
            lines.append(Line(name=variant, points=points, colour=colour))
            bad = [
                at
                for at, entry in own
                if any(test["worse"] and test["figure"] == figure for test in entry["tests"])
            ]
            # A single look has no line yet.
            lines.append(Line(name=variant, points=points, dots=True, faint=True, colour=colour))
            marks += [(at, f"{variant} regressed") for at in bad]
        began = scored[0][1]["at"][:16].replace("T", " ")
        left = f"; {len(late) - len(shown)} more are not drawn" if len(late) > len(shown) else ""
        made.append(
            Chart(
                title=figure,
                x=f"{'days' if long else 'hours'} since {began} UTC",
                y=figure,
                lines=lines,
                marks=marks,
                note=f"{len({e['look'] for _, e in scored})} looks at something new{left}",
            )
        )
    return made


def write_charts(folder: Path, entries: Sequence[Entry]) -> list[Path]:
    """Write a page (drawn in SVG, light and dark) and a PNG of a history; nothing if there is no score."""
    found = charts(entries)
    if not found:
        return []
    figures = "".join(drawing(chart) for chart in found)
    whole = page("Scores over time", [f'<div class="charts">{figures}</div>'], STYLE)
    return [atomic_write(folder / PAGE, whole), atomic_write(folder / PICTURE, picture(found))]

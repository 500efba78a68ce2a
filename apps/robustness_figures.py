"""What robustness looks like: a table of strengths and areas, and a chart for each perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.chart import STYLE, Chart, Line, drawing
from studio.files import atomic_write
from studio.heatmap import page

if TYPE_CHECKING:
    from rich.table import Table

PAGE, PICTURE = "robustness.html", "robustness.png"
ROW = ("perturbation", "variant")


def curve_tables(told: Mapping[str, Any], metric: str) -> list[Table]:
    """Return a table for each domain: one metric by strength, and the area under each curve."""
    found = []
    for domain in dict.fromkeys(curve["domain"] for curve in told["curves"]):
        curves = [c for c in told["curves"] if (c["domain"], c["metric"]) == (domain, metric)]
        view = _table(
            f"{domain}: {metric} by strength, 95 % interval of the area", ("perturbation", "variant")
        )
        for name in (*map(str, told["strengths"]), "area"):
            view.add_column(name, justify="right", no_wrap=True)
        for curve in curves:
            values = [f"{point['value']:.2f}" for point in curve["points"]]
            view.add_row(curve["perturbation"], curve["variant"], *values, _cell(curve["area"]))
        found.append(view)
    return found


def attack_table(told: Mapping[str, Any], metric: str) -> Table:
    """Return what attacks left of one metric."""
    view = _table(f"{metric} under attack, 95 % intervals", ("domain", "variant", "attack", "budget"))
    for name in ("clean", "attacked", "n"):
        view.add_column(name, justify="right", no_wrap=True)
    for one in told["attacks"]:
        if one["metric"] == metric:
            view.add_row(
                one["domain"], one["variant"], f"{one['attack']} on {one['on']}",
                f"{one['eps']:g} {one['unit']}", _cell(one["clean"]), _cell(one["attacked"]), str(one["n"]),
            )  # fmt: skip
    return view


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    view = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        view.add_column(name, overflow="fold")
    return view


def _cell(figures: Mapping[str, Any]) -> Any:
    from rich.text import Text

    text = Text(f"{figures['value']:.2f}")
    return text.append(f"\n{figures['low']:.2f}-{figures['high']:.2f}", style="dim")


def charts(told: Mapping[str, Any], metric: str) -> list[Chart]:
    """Return a chart for each domain and perturbation: a line for each variant, with its interval."""
    places = dict.fromkeys((curve["domain"], curve["perturbation"]) for curve in told["curves"])
    return [_chart(told, domain, name, metric) for domain, name in places]


def write_figures(told: Mapping[str, Any], metric: str, out: Path) -> list[Path]:
    """Write the charts as a page with drawings (SVG) and as one picture (PNG), and return their paths."""
    from studio.chart_picture import picture

    drawn = charts(told, metric)
    if not drawn:
        return []
    figures = "".join(map(drawing, drawn))
    parts = [f'<h1>Robustness</h1><div class="charts">{figures}</div>']
    atomic_write(out / PAGE, page("Robustness", parts, STYLE))
    atomic_write(out / PICTURE, picture(drawn))
    return [out / PAGE, out / PICTURE]


def _chart(told: Mapping[str, Any], domain: str, name: str, metric: str) -> Chart:
    curves = [
        curve
        for curve in told["curves"]
        if (curve["domain"], curve["perturbation"], curve["metric"]) == (domain, name, metric)
    ]
    about = told["perturbations"][name]
    levels = ", ".join(f"{level:g}" for level in about["levels"])
    lines = [line for at, curve in enumerate(curves) for line in _lines(curve, at)]
    return Chart(
        title=f"{domain}: {name}", note=f"{levels} {about['unit']}", x="strength", y=metric, lines=lines
    )


def _lines(curve: Mapping[str, Any], colour: int) -> Sequence[Line]:
    def line(end: str, name: str, faint: bool) -> Line:
        points = [(float(point["strength"]), float(point[end])) for point in curve["points"]]
        return Line(name=name, points=points, faint=faint, colour=colour)

    name = str(curve["variant"])
    return [line("low", name, True), line("high", name, True), line("value", name, False)]

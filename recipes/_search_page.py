"""The report of a search for people: a page with front and table, a picture of the front, and the card."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from recipes._search_bench import Objective, Values
from recipes._search_makers import MAKERS
from recipes._search_result import Found, surpasses, words
from studio.chart import STYLE, Chart, Line, drawing
from studio.chart_picture import picture
from studio.files import atomic_write
from studio.heatmap import page
from studio.log import Log
from studio.runs import Record, write_card

if TYPE_CHECKING:
    from recipes._search_report import Reported
    from recipes.search import Config
    from studio.eval_report.retention import Kept

_TABLE = """
.table{overflow-x:auto}table.report{border-collapse:collapse;margin:1rem 0;font-size:.9rem}
table.report th,table.report td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}table.report th:first-child{text-align:left}table.report small{color:var(--soft)}
table.report tr.found{font-weight:600}
"""


def write_page(
    config: Config,
    told: Sequence[Reported],
    best: Found,
    every: Sequence[Found],
    tried: Mapping[str, Values],
    log: Log,
) -> None:
    """Write front.png and report.html, and say the table to the log."""
    drawn = charts(config, best, every, tried)
    atomic_write(config.output / "front.png", picture(drawn))
    summary, note = _summary(config, best, len(every))
    body = [f"<h1>Search</h1><p>{html.escape(summary)}</p>", f'<div class="table">{_html(told)}</div>']
    body += [f"<p>{html.escape(note)}</p>", '<div class="charts">', *map(drawing, drawn), "</div>"]
    atomic_write(config.output / "report.html", page("Search", body, STYLE + _TABLE))
    for line in _lines(told):
        log.say(line)


def write_search_card(
    config: Config, record: Record, told: Sequence[Reported], best: Found, count: int
) -> None:
    """Write README.md of a finished search."""
    summary, note = _summary(config, best, count)
    method = best.candidate.method
    again = f"triptych merge {config.output / 'merge.yaml'} -o OUT\n"
    if method in MAKERS:
        again = f"triptych run {method} --config {config.output / f'merge.{method}.yaml'} output=OUT\n"
    write_card(
        config.output, f"Merge of {', '.join(config.experts)}", record,
        summary=f"{summary}\n\n{note}\n\n{_markdown(told)}", tags=("triptych", "merge", "search"),
        use=again + f"triptych app {config.model} {config.output / 'adapter'}",
    )  # fmt: skip


def _summary(config: Config, best: Found, count: int) -> tuple[str, str]:
    """Return what was found and how, and how the table is to be read."""
    rows = config.rows
    return (
        f"The best of {count} candidates, chosen on {rows.search} rows of each domain ({rows.search_split}), "
        f"asked on {rows.report} others ({rows.report_split}): {words(best.candidate)}.",
        f"{config.metric} in percent, 95 % intervals; mean and worst are shares of what each domain's expert "
        "has at home. PEFT's and mergekit's merges were chosen as the candidates were.",
    )


def charts(config: Config, best: Found, every: Sequence[Found], tried: Mapping[str, Values]) -> list[Chart]:
    """Return the front of mean and worst domain, and the best mean by candidate."""
    mean, worst = Objective(score=config.score, what="mean"), Objective(score=config.score, what="worst")

    def point(values: Values) -> tuple[float, float]:
        return mean.value(values), worst.value(values)

    points = [(each.number, point(each.values)) for each in every if each.state == "complete"]
    edge = sorted({p for _, p in points if not any(surpasses(q, p) for _, q in points)})
    others = [values for name, values in tried.items() if name not in config.experts]
    by_trial = [(float(number), p[0]) for number, p in points]
    top = list(accumulate((y for _, y in by_trial), max))
    return [
        Chart(
            title="Front", note=f"{config.score}, shares of the experts'; up and right is better",
            x="mean of the domains", y="worst domain",
            lines=[
                Line(name="candidates", points=[p for _, p in points], dots=True),
                Line(name="front", points=edge),
                Line(name="baselines", points=[point(values) for values in others], dots=True),
                Line(name="chosen", points=[point(best.values)], dots=True),
            ],
        ),
        Chart(
            title="Candidates", note=f"{len(points)} of {len(every)} measured whole", x="candidate",
            y="mean of the domains",
            lines=[
                Line(name="candidate", points=by_trial, dots=True),
                Line(name="best so far", points=[(x, y) for (x, _), y in zip(by_trial, top, strict=True)]),
            ],
        ),
    ]  # fmt: skip


def _rows(told: Sequence[Reported]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table; cells are figures with their intervals."""
    domains = list(told[0].scores)
    rows = []
    for each in told:
        cells = [_percent(*(each.scores[d][key] for key in ("value", "low", "high"))) for d in domains]
        rows.append([each.name, *cells, _share(each.kept.mean), _share(each.kept.worst)])
    return ["variant", *domains, "mean", "worst"], rows


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _share(share: Kept) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "-"
    return f"{share.value:.3f} ({share.low:.2f}-{share.high:.2f})"


def _lines(told: Sequence[Reported]) -> list[str]:
    head, rows = _rows(told)
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]


def _markdown(told: Sequence[Reported]) -> str:
    head, rows = _rows(told)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _html(told: Sequence[Reported]) -> str:
    head, rows = _rows(told)
    first = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr{" class=found" if each.kind == "searched" else ""}><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for each, row in zip(told, rows, strict=True)
    )
    return f'<table class="report"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>'

"""The report as one self-contained HTML page: no script, nothing from outside, light, dark and on paper."""

from __future__ import annotations

import html
import json
from pathlib import Path

from studio.chart import STYLE as CHARTS
from studio.eval_report import added, origin_parts, parts
from studio.eval_report.assemble import Report, as_json
from studio.eval_report.cards import STYLE as CARDS
from studio.eval_report.embed import Media
from studio.files import atomic_write
from studio.heatmap import page

PAGE, FIGURES = "report.html", "report.json"

#: Of the parts, wherever they stand; the names of colours are those of `studio.heatmap`.
STYLE = (
    CARDS
    + """
.part h2{margin-top:0}.part h3{font-size:1rem;margin:1.6rem 0 .4rem}.part>p.soft{max-width:46rem}
.sample h3{margin:0 0 .4rem}.map td.s{color:var(--ink)}
.map td small{color:inherit}.map tbody th{position:sticky;left:0;background:var(--card)}
.right::before{color:var(--up)}.wrong::before{color:var(--down)}
.part .chart{max-width:44rem}
.finding{font-size:1.2rem;max-width:46rem;margin:1rem 0}
.partial{border-left:.3rem solid var(--down);padding:.3rem 1rem;margin:1.2rem 0;background:var(--card)}
details{margin:.5rem 0}summary{cursor:pointer;font-weight:600;padding:.25rem 0;overflow-wrap:anywhere}
.facts{display:grid;grid-template-columns:minmax(6rem,max-content) minmax(0,1fr);gap:.15rem 1rem;
margin:.4rem 0;font-size:.9rem}.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
.facts .facts{margin:0}.facts ul{margin:0;padding-left:1.1rem}
.plain :is(td,th){text-align:left}
@media(max-width:40rem){.facts{grid-template-columns:minmax(0,1fr)}.facts dd{margin:0 0 .3rem .8rem}}
"""
)
_PAGE = """
:root{--up:#12666b;--down:#b3501d;--most:50%;
--above:color-mix(in oklab,var(--up) var(--most),var(--rest));
--below:color-mix(in oklab,var(--down) var(--most),var(--rest))}
@media(prefers-color-scheme:dark){:root{--up:#5cc4c8;--down:#f0955c;--most:38%}}
.part{margin-top:2.8rem}a{color:var(--up)}
.contents{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1.2rem 0;font-size:.92rem}
@media(max-width:40rem){body{padding:1.4rem .8rem}figure{padding:.8rem}}
@media print{body{padding:0;background:#fff;font-size:11pt}.contents,audio{display:none}
.map td,.legend i,.key i{print-color-adjust:exact}.scroll{overflow:visible}
figure,.sample,tr{break-inside:avoid}h2,h3{break-after:avoid}.plain :is(td,th){white-space:normal}
details::details-content{content-visibility:visible;block-size:auto}}
"""


def write_report(folder: Path, report: Report) -> Path:
    """Write `PAGE` and `FIGURES` into a folder, each whole or not at all, and return the page's path."""
    text = html_page(report)
    atomic_write(folder / FIGURES, json.dumps(as_json(report), indent=2) + "\n")
    return atomic_write(folder / PAGE, text.encode("utf-8", "replace"))


def html_page(report: Report, title: str = "") -> str:
    """Return the report as a page; by default its title is the name of the evaluation's folder."""
    name = title or f"Report on {report.evaluation.folder.resolve().name}"
    found = sections(report)
    links = "".join(f'<a href="#part-{key}">{_heading(part)}</a>' for key, part in found.items())
    top = [f"<h1>{html.escape(name)}</h1>", parts.headline(report)]
    contents = f'<nav class="contents" aria-label="Parts of the report">{links}</nav>'
    return page(name, [*top, contents, *found.values()], CHARTS + STYLE + _PAGE)


def sections(report: Report) -> dict[str, str]:
    """Return the parts of the report that have something to say, by name, as HTML."""
    media = Media()
    made = {
        "retention": parts.retention(report),
        "scores": parts.scores(report),
        "gains": parts.gains(report),
        "groups": added.groups(report),
        "robustness": added.robustness(report),
        "calibration": parts.calibration(report),
        "regressions": parts.regressions(report, media),
        "samples": parts.samples(report, media),
        "lineage": origin_parts.lineage(report),
    }
    return {name: part for name, part in made.items() if part}


def _heading(part: str) -> str:
    return part.partition("</h2>")[0].rpartition(">")[2]

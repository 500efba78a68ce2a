"""The report of an evaluation: report.json to compute with, report.html to look at, self-contained."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.files import atomic_write
from studio.heatmap import page
from studio.sample_card import STYLE as CARD_STYLE
from studio.sample_card import card
from studio.types import Sample

SHOWN = 3  # samples a domain

_STYLE = """
h2{margin-bottom:.8rem}table{border-spacing:4px;width:100%}th{font-weight:600;text-align:left;white-space:nowrap}
th.col{text-align:center}
td.cell{text-align:center;border-radius:8px;padding:.55rem .4rem;color:#0d1b12;min-width:6.2rem}
td.cell b{display:block;font-size:1.1rem}td.cell small{color:#0d1b12aa}
"""


def write_report(
    out: Path,
    results: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Sequence[Sample]],
    about: Mapping[str, Any],
) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out`` and return the page's path.

    ``results[domain][variant]`` is what `apps.evaluate.evaluate` returns; the answers shown beside the media
    are read from its ``evaluation/samples.jsonl``.
    """
    matrix = {
        domain: {name: {"value": c["value"], "n": c["n"], "ci": c["ci"]} for name, c in cells.items()}
        for domain, cells in results.items()
    }
    about = earlier(out / "report.json", matrix) or about
    atomic_write(out / "report.json", json.dumps({**about, "results": matrix}, indent=2) + "\n")
    answers: dict[str, dict[str, tuple[str, float]]] = {}
    with (out / "evaluation" / "samples.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            told = (row["output"], row["scores"].get("exact_match", 0.0))
            answers.setdefault(row["where"], {})[row["variant"]] = told
    told = ", ".join(f"{stage} {value:.0f} s" for stage, value in about["seconds"].items())
    parts = [
        "<h1>Which variant keeps what</h1>",
        f'<p class="soft">Exact match on held-out test sets, with 95 % Wilson intervals. '
        f"{html.escape(about['date'])}, {html.escape(about['machine'])}; {html.escape(told)}.</p>",
        heat_map(matrix),
    ]
    for domain, samples in data.items():
        parts.append(f"<h2>{html.escape(domain)}</h2>")
        parts += [card(sample, answers.get(sample.where, {})) for sample in samples[:SHOWN]]
    return atomic_write(out / "report.html", page("Triptych report", parts, _STYLE + CARD_STYLE))


def earlier(file: Path, matrix: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier report says of the day and the times if it found the same, else None.

    A run that reuses every stage takes seconds; the figures worth keeping are those of the run that worked.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if told.pop("results", None) == matrix else None


def heat_map(matrix: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of variants by domains, its cells coloured from red to green."""
    domains = list(matrix)
    head = "".join(f'<th class="col" scope="col">{html.escape(d)}</th>' for d in domains)
    rows = []
    for name in matrix[domains[0]]:
        cells = []
        for domain in domains:
            cell = matrix[domain][name]
            hue, low, high = 8 + 122 * cell["value"], *cell["ci"]
            cells.append(
                f'<td class="cell" style="background:hsl({hue:.0f} 62% 68%)"><b>{100 * cell["value"]:.1f}</b>'
                f"<small>{100 * low:.0f}&ndash;{100 * high:.0f}, n {cell['n']}</small></td>"
            )
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cells)}</tr>')
    table = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{table}</table></div>'

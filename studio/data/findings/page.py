"""The findings as one HTML page: each with its place, the medium it is about, and what mends it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studio.data.findings.found import Finding, Report
from studio.data.findings.kinds import KINDS
from studio.data.kept_facts import Medium, examine, workers
from studio.errors import MediaError
from studio.heatmap import page, plain_table
from studio.log import QuietLog
from studio.media_facts import Facts, thumbnail

#: So many findings of each kind are shown; check.json holds all.
SHOWN = 12
#: Symbol, of a width and height in points, of a medium that cannot be decoded.
_BROKEN = "M20 20 44 44M44 20 20 44"

STYLE = """
.plain td{white-space:normal}.plain td:last-child,.plain th:last-child{text-align:left}
.tally{display:flex;flex-wrap:wrap;gap:2rem;margin:1.4rem 0 2rem}
.tally b{display:block;font-size:1.7rem;line-height:1.2}
.error{color:var(--below)}.warning{color:var(--above)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:.9rem;margin:1rem 0}
.card{display:flex;gap:.9rem;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.9rem;min-width:0;font-size:.9rem}
.card>div{min-width:0;overflow-wrap:anywhere}.card p{margin:.25rem 0}.card code{color:var(--soft)}
.look{flex:0 0 112px;height:112px;display:grid;place-items:center;background:var(--rest);
border-radius:8px;overflow:hidden}
.look img{max-width:112px;max-height:112px}.look svg{width:100%;height:64px;color:var(--above)}
.look.off svg{color:var(--below)}
h2 small{font-weight:400;margin-left:.5rem}a{color:inherit}
"""


def findings_page(report: Report) -> str:
    """Return the page, self-contained: thumbnails and waveforms are in it."""
    root = report.files[0].parent
    shown: dict[str, list[Finding]] = {name: [] for name in report.counts()}
    for finding in report.findings:
        if len(shown[finding.kind]) < SHOWN:
            shown[finding.kind].append(finding)
    looks = _looks([finding for some in shown.values() for finding in some])
    return page(
        f"Check of {root.name}",
        [
            f"<h1>Check of {html.escape(root.name)}</h1>",
            f"<p class=soft>{html.escape(', '.join(file.name for file in report.files))}</p>",
            _tally(report),
            *_sections(report, shown, looks, root),
        ],
        STYLE,
    )


def _tally(report: Report) -> str:
    errors = report.error_count
    figures = [
        ("", report.rows, "rows"),
        ("", report.media, "media"),
        ("error" if errors else "", errors, "errors"),
        ("warning", len(report.findings) - errors, "warnings"),
    ]
    cells = "".join(f'<div><b class="{kind}">{count:,}</b>{what}</div>' for kind, count, what in figures)
    return f'<div class="tally">{cells}</div>'


def _sections(
    report: Report,
    shown: dict[str, list[Finding]],
    looks: dict[Medium, str],
    root: Path,
) -> Iterator[str]:
    counts = report.counts()
    if not counts:
        yield "<p>Nothing was found: every row reads, every medium decodes.</p>"
        return
    lines = [(name, KINDS[name].severity, f"{counts[name]:,}", KINDS[name].means) for name in counts]
    yield plain_table(("kind", "severity", "rows", "what it means"), lines)
    for name, some in shown.items():
        kind, more = KINDS[name], counts[name] - len(some)
        yield (
            f'<h2 class="{kind.severity}" id="{name}">{name}'
            f"<small>{counts[name]:,} x {kind.severity}</small></h2>"
            f"<p>{html.escape(_sentence(kind.means))} <b>Fix:</b> {html.escape(_sentence(kind.fix))}</p>"
        )
        yield f'<div class="cards">{"".join(_card(finding, looks, root) for finding in some)}</div>'
        if more:
            yield f"<p class=soft>and {more:,} more, all in check.json</p>"


def _card(finding: Finding, looks: dict[Medium, str], root: Path) -> str:
    look = looks.get(finding.medium, "") if finding.medium else ""
    place = f"{finding.file.name}:{finding.row}"
    told = finding.message.replace(f"{root}/", "")
    return (
        f'<div class="card">{look}<div><code>{html.escape(place)}</code>'
        f"<p>{html.escape(told)}</p><p class=soft>{html.escape(_sentence(finding.about.fix))}</p></div></div>"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _looks(shown: list[Finding]) -> dict[Medium, str]:
    """Return what each medium that is shown looks or sounds like, as HTML."""
    media = list(dict.fromkeys(finding.medium for finding in shown if finding.medium))
    examined = examine(media, QuietLog())
    with ThreadPoolExecutor(workers()) as pool:
        drawn = pool.map(look, media, [examined[medium].facts for medium in media])
        return dict(zip(media, drawn, strict=True))


def look(medium: Medium, facts: Facts) -> str:
    """Return a thumbnail or a waveform as HTML, or a cross for what cannot be decoded."""
    path, picture = medium
    if not facts.trouble and not picture:
        return f'<div class="look">{waveform(facts)}</div>'
    if not facts.trouble:
        try:
            data = base64.b64encode(thumbnail(path)).decode()
            return f'<div class="look"><img alt="" src="data:image/png;base64,{data}"></div>'
        except MediaError:  # it was whole a moment ago
            pass
    cross = f'<path d="{_BROKEN}" stroke="currentColor" stroke-width="4" stroke-linecap="round"/>'
    drawn = f'<svg viewBox="0 0 64 64" role="img" aria-label="unreadable">{cross}</svg>'
    return f'<div class="look off">{drawn}</div>'


def waveform(facts: Facts) -> str:
    """Return a sound's course as an SVG picture: one bar for each of the magnitudes of its facts."""
    width = 2 * len(facts.shape)
    bars = "".join(
        f"M{2 * at + 1} {32 - max(value * 30 / 255, 0.5):.1f}V{32 + max(value * 30 / 255, 0.5):.1f}"
        for at, value in enumerate(facts.shape)
    )
    return (
        f'<svg viewBox="0 0 {width} 64" preserveAspectRatio="none" role="img" aria-label="waveform">'
        f'<path d="{bars}" stroke="currentColor" stroke-width="1.3"/></svg>'
    )

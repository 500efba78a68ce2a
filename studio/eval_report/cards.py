"""Questions with their media and all their answers, as pieces of a page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from studio.eval_report.assemble import Report
from studio.eval_report.embed import Media
from studio.eval_report.evaluation import Row
from studio.eval_report.regressions import Regression, per_sample
from studio.eval_report.words import number, short

#: Characters of a text that are shown.
LONGEST = 600

STYLE = """
.sample{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem;margin:.9rem 0;
display:grid;grid-template-columns:minmax(8rem,13rem) minmax(0,1fr);gap:.2rem 1.3rem}
.sample.bare{grid-template-columns:minmax(0,1fr)}
.sample h3{grid-column:1/-1;margin:0 0 .4rem;font-size:1rem}.sample h3 span{font-weight:400;color:var(--soft)}
.sample img{width:100%;max-width:13rem;border-radius:8px;image-rendering:pixelated}.sample audio{width:100%}
.sample p{margin:0 0 .5rem;overflow-wrap:anywhere;white-space:pre-line}
.answers{display:grid;grid-template-columns:minmax(5rem,max-content) minmax(0,1fr);gap:.2rem .9rem;margin:0}
.answers dt{color:var(--soft);overflow-wrap:anywhere}.answers dd{margin:0;overflow-wrap:anywhere}
.right::before{content:"\\2713\\00a0";color:var(--above)}.wrong::before{content:"\\2717\\00a0";color:var(--below)}
.live{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media(max-width:40rem){.sample,.answers{grid-template-columns:minmax(0,1fr)}.answers dd{margin-bottom:.4rem}}
"""


def regression_card(one: Regression, at_home: str, media: Media) -> str:
    """Return one regression: what was asked, what was right, and what became of it."""
    who = "the expert at home" if one.of.variant == at_home else "the baseline"
    lost = f"{len(one.lost)} of {len(one.answers)} fell behind {who}"
    return _card(one.domain, lost, one.of, [one.of, *one.answers], one.metric, media)


def examples(report: Report, media: Media) -> Iterator[tuple[str, str]]:
    """Yield domain and card of the first questions of each domain, with the answers of all variants."""
    metric = per_sample(report.evaluation, report.metric)
    for domain, tables in report.evaluation.rows.items():
        first = next(iter(tables.values()), {})
        for key in list(first)[: report.examples]:
            rows = [table[key] for table in tables.values() if key in table]
            yield domain, _card(domain, "", rows[0], rows, metric, media)


def text(told: str, most: int = LONGEST) -> str:
    """Return a text as HTML that cannot be anything else, cut where it is long."""
    cut = told if len(told) <= most else f"{told[:most]}…"
    return html.escape("".join(sign if sign >= " " or sign in "\n\t" else "�" for sign in cut))


def _card(domain: str, told: str, asked: Row, answers: Sequence[Row], metric: str, media: Media) -> str:
    shown = "".join(media.html(path, sha256) for path, sha256 in asked.media)
    lines = [f'<dt>wanted</dt><dd dir="auto">{text(asked.reference)}</dd>']
    for row in answers:
        score = row.scores.get(metric)
        lines.append(f"<dt>{text(row.variant)}</dt>{_answer(row.output, score, metric)}")
    head = f"{text(short(domain))} <span>{text(told)}</span>"
    column = f"<div>{shown}</div>" if shown else ""
    bare = "" if shown else " bare"
    return (
        f'<article class="sample{bare}"><h3>{head}</h3>{column}<div><p dir="auto">{text(asked.prompt)}</p>'
        f'<dl class="answers">{"".join(lines)}</dl></div></article>'
    )


def _answer(output: str, score: float | None, metric: str) -> str:
    said = text(output) or '<span class="soft">nothing</span>'
    if score in (0.0, 1.0) and metric in ("exact_match", "accuracy"):
        kind = "right" if score else "wrong"
        return f'<dd class="{kind}" dir="auto"><span class="live">{kind}: </span>{said}</dd>'
    worth = f" <small>{html.escape(metric)} {number(score)}</small>" if score is not None else ""
    return f'<dd dir="auto">{said}{worth}</dd>'

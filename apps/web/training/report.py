"""The check's report for people who know the field and not the tool: counts, findings, the first examples."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from studio.data.findings.found import Finding
from studio.data.findings.kinds import KINDS
from studio.data.findings.page import look
from studio.data.intake import Taken
from studio.data.kept_facts import examine
from studio.errors import MediaError
from studio.log import QuietLog
from studio.media_facts import thumbnail
from studio.types import Image, Sample, Sound, Text

SHOWN = 3
"""Findings of each kind that are shown with their medium."""
_HEARD = 1 << 20
"""Largest recording that is sent along with the report, in bytes."""
_DONE = {"drop": "left out", "rewrite": "mended", "": "kept as they are"}
_KINDS = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}


def report_html(name: str, taken: Taken) -> str:
    """Return what became of a data set: how many rows are learned from, what is wrong, some examples."""
    figures = [("rows", taken.report.rows), ("to learn from", taken.learned)]
    figures += [("held out", taken.held_out), ("left out", taken.left_out), ("mended", taken.mended)]
    tally = "".join(
        f"<div><b>{count:,}</b> {what}</div>" for what, count in figures if count or what == "to learn from"
    )
    parts = [
        f'<div class="tp-told tp-good"><b>{html.escape(name)}</b> is ready.</div>',
        f'<div class="tp-tally">{tally}</div>',
        _findings(taken),
        '<h3 class="tp-small">The first examples</h3>',
        f'<div class="tp-examples">{"".join(example_html(sample) for sample in taken.examples)}</div>',
    ]
    if not taken.held_out:
        parts.append(
            '<p class="tp-soft">With fewer than 20 rows none are held out, so nobody will be able to tell '
            "whether it learns by heart.</p>"
        )
    return f'<section aria-label="Check of the data">{"".join(parts)}</section>'


def _findings(taken: Taken) -> str:
    counts = taken.report.counts()
    if not counts:
        return '<p class="tp-soft">Every row reads, every picture and sound opens.</p>'
    first: dict[str, list[Finding]] = {name: [] for name in counts}
    for finding in taken.report.findings:
        if len(first[finding.kind]) < SHOWN:
            first[finding.kind].append(finding)
    items = []
    for name, count in counts.items():
        kind = KINDS[name]
        looks = "".join(_finding(one, taken.root) for one in first[name])
        items.append(
            f'<details><summary><span class="tp-mark-{kind.severity}">{count:,}</span> '
            f"{html.escape(kind.means)}: <b>{_DONE[kind.repair]}</b></summary>"
            f'<p class="tp-soft">What would mend it: {html.escape(kind.fix)}.</p>{looks}</details>'
        )
    return f'<div class="tp-findings">{"".join(items)}</div>'


def _finding(finding: Finding, root: Path) -> str:
    place = f"{finding.file.name}, line {finding.row}"
    told = finding.message.replace(f"{root}/", "")
    seen = ""
    if finding.medium is not None and finding.medium[0].is_file():
        facts = examine([finding.medium], QuietLog())[finding.medium].facts
        seen = look(finding.medium, facts)
    return (
        f'<div class="tp-finding">{seen}<div><span class="tp-soft">{html.escape(place)}</span><br>'
        f"{html.escape(told)}</div></div>"
    )


def example_html(sample: Sample, said: str | None = None) -> str:
    """Return one row: its media to see and hear, what is asked, and the answer; ``said`` is a model's."""
    media, asked = [], []
    for turn in sample.prompt:
        for part in turn.parts:
            if isinstance(part, Text):
                asked.append(html.escape(part.text))
            else:
                media.append(_medium(part))
    answers = f"<dt>answer</dt><dd>{html.escape(sample.answer)}</dd>"
    if said is not None:
        answers += f"<dt>it says</dt><dd>{html.escape(said) or '<i>nothing</i>'}</dd>"
    return (
        f'<div class="tp-example"><div class="tp-media">{"".join(media)}</div>'
        f"<div><p>{'<br>'.join(asked)}</p><dl>{answers}</dl></div></div>"
    )


def _medium(part: Image | Sound) -> str:
    try:
        if isinstance(part, Image):
            data = base64.b64encode(thumbnail(part.path)).decode()
            return f'<img alt="picture of this example" src="data:image/png;base64,{data}">'
        kind = _KINDS.get(part.path.suffix.lower())
        if kind is None or part.path.stat().st_size > _HEARD:
            return '<span class="tp-soft">a recording</span>'
        data = base64.b64encode(part.path.read_bytes()).decode()
        return (
            f'<audio controls aria-label="recording of this example" src="data:{kind};base64,{data}"></audio>'
        )
    except (MediaError, OSError):
        return '<span class="tp-soft">a medium that is gone</span>'

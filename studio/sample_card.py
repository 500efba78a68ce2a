"""One sample as a piece of a page: its media to see and hear, what was asked, reference and answers."""

from __future__ import annotations

import base64
import html
import mimetypes
from collections.abc import Mapping
from pathlib import Path

from studio.types import Image, Sample, Sound, Text

STYLE = """
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem;margin:.8rem 0;
display:grid;grid-template-columns:minmax(9rem,13rem) 1fr;gap:1.2rem}
@media(max-width:40rem){.card{grid-template-columns:1fr}}
.card img{width:100%;max-width:13rem;border-radius:8px;image-rendering:pixelated}.card audio{width:100%}
.answers{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;margin:.6rem 0 0}
.answers dt{color:var(--soft)}.answers dd{margin:0}.right::before{content:"\\2713 ";color:#1a9850}
.wrong::before{content:"\\2717 ";color:#d73027}
"""


def card(sample: Sample, answers: Mapping[str, tuple[str, float]]) -> str:
    """Return one sample with its media, its reference and every answer, by who gave it, with its score."""
    media, asked = [], []
    for turn in sample.prompt:
        for part in turn.parts:
            if isinstance(part, Text):
                asked.append(html.escape(part.text))
            elif isinstance(part, Image):
                media.append(f'<img alt="the picture of this question" src="{_inline(part.path)}">')
            elif isinstance(part, Sound):
                media.append(f'<audio controls src="{_inline(part.path)}"></audio>')
    if "said" in sample.groups:
        asked.append(f"<small>said: {html.escape(sample.groups['said'])}</small>")
    lines = [f"<dt>reference</dt><dd>{html.escape(sample.answer)}</dd>"]
    for name, (answer, score) in answers.items():
        mark = "right" if score == 1 else "wrong"
        lines.append(f'<dt>{html.escape(name)}</dt><dd class="{mark}">{html.escape(answer) or "&nbsp;"}</dd>')
    body = f'<div>{" ".join(asked)}<dl class="answers">{"".join(lines)}</dl></div>'
    return f'<div class="card"><div>{"".join(media)}</div>{body}</div>'


def _inline(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

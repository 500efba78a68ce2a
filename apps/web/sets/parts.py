"""What the page of question sets shows beside the answers: progress, the question itself, and the end."""

from __future__ import annotations

import base64
import mimetypes
from html import escape
from pathlib import Path

from apps.web.question import Question
from studio.next_question import Place
from studio.question_sets import QuestionSet

NONE = (
    '<div class="tp-card"><h2>No question sets yet</h2><p>An engineer makes one from any data file or '
    "shipped domain:</p><pre><code>"
    "triptych questions make cloth --data textiles --count 40</code></pre></div>"
)


def progress_html(one: QuestionSet, where: Place) -> str:
    """Return how far a visitor is: "12 of 44" and a bar."""
    words = f"{where.done} of {where.total}"
    return (
        f'<div class="tp-progress"><p><b>{escape(one.title)}</b><span role="status">{words} answered</span>'
        "</p>"
        f'<progress aria-label="Progress in {escape(one.title)}" max="{where.total}" value="{where.done}">'
        f"{words}</progress></div>"
    )


def begin_html(one: QuestionSet, where: Place) -> str:
    """Return what stands in place of the answers before the first question of a visit."""
    if where.next is None:
        return end_html(one, where)
    words = "Go on where you stopped." if where.done else "Two answers to each question; say which is better."
    return (
        f'<div class="tp-card"><h2>{escape(one.title)}</h2><p>{words}</p><p>Which model wrote an answer is '
        "not shown. Each verdict is kept at once, so you may stop at any question and go on later.</p></div>"
    )


def end_html(one: QuestionSet, where: Place) -> str:
    """Return what stands there at the end of a set."""
    return (
        f'<div class="tp-card tp-end"><h2>Thank you, that is all of {escape(one.title)}</h2>'
        f"<p>All {where.total} verdicts are kept.</p></div>"
    )


def question_html(question: Question | None) -> str:
    """Return a question with its picture and its recording in it."""
    if question is None:
        return ""
    parts = []
    if question.picture is not None:
        parts.append(f'<img alt="The picture of the question" src="{_inline(question.picture)}">')
    if question.sound is not None:
        source = _inline(question.sound)
        parts.append(f'<audio controls aria-label="The recording of the question" src="{source}"></audio>')
    if question.text:
        parts.append(f"<p>{escape(question.text)}</p>")
    return f'<div class="tp-asked">{"".join(parts)}</div>'


def _inline(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

"""The panels as HTML: every name, answer and sentence is escaped, so that none of them can be markup."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from apps.web.ballot import VOTES, best_button, verdict_html
from apps.web.difference import Piece, differences
from apps.web.faults import report_html
from apps.web.question import Exchange, Question
from apps.web.rounds import OVER, Panel
from apps.web.voting import Ballot

__all__ = ["LETTERS", "VOTES", "panels_html", "visible"]

LETTERS = "ABCD"
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_STATES = {
    "ready": "Ready",
    "waiting": "Waiting for its turn",
    "answering": "Answering",
    "done": "Answered",
    "stopped": "Stopped",
    "failed": "Failed",
}
_COPY = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><rect x="5.5" y="5.5" width="8" height="8" rx="1.5"/>'
    '<path d="M10.5 3.2A1.5 1.5 0 0 0 9 2.5H4A1.5 1.5 0 0 0 2.5 4v5a1.5 1.5 0 0 0 .7 1.3"/></svg>'
)
_MARKS = (
    '<p class="tp-tools"><button type="button" class="tp-marks" aria-pressed="false">'
    "Mark differences</button></p>"
)


def panels_html(
    panels: Sequence[Panel],
    *,
    expected: str | None = None,
    matches: Sequence[bool] = (),
    ballot: Ballot | None = None,
    votable: bool = False,
    vote: str | None = None,
    blind: bool = False,
    revealed: Sequence[str] = (),
    question: Question | None = None,
    problem: str = "",
    reports: str = "",
    reported: Collection[int] = (),
) -> str:
    """Return the answers side by side, with the row of verdicts when there is a ``ballot``, or ``votable``.

    ``expected`` is the example's reference answer, shown once all answers are in, and ``matches``
    says which panels equal it; ``vote`` is the verdict that was given; ``blind`` leaves out what could
    tell variants apart until the names are ``revealed``, one a panel; ``question`` is shown
    where the panels show a conversation; ``problem`` is a sentence about the question itself; ``reports`` is
    the token with which an answer can be called wrong, ``reported`` the places of those that were.
    """
    over, votable = all(panel.state in OVER for panel in panels), votable or ballot is not None
    matched = list(matches) if over and matches else [False] * len(panels)
    names = list(revealed) or [""] * len(panels)
    texts = [visible(panel.text) for panel in panels]
    differing = over and sum(bool(text) for text in texts) > 1
    pieces = differences(texts) if differing else [[(text, False)] for text in texts]
    token = f' data-token="{escape(ballot.token)}"' if ballot and not vote else ""
    spoken = escape(_spoken(panels, vote, names, reported) if not problem else "")
    parts = [f'<div class="tp-board" data-count="{len(panels)}" data-spoken="{spoken}"{token}>']
    parts.append(problem_html(problem) if problem else "")
    if expected and over:
        parts.append(f'<p class="tp-expected"><b>Expected</b> <span>{escape(expected)}</span></p>')
    parts.append(_MARKS if differing else "")
    parts.append('<div class="tp-panels">')
    for place, panel in enumerate(panels):
        timed = not blind or bool(revealed)
        badge = '<span class="tp-match">as expected</span>' if matched[place] else ""
        chosen = votable and vote == panel.name
        classes = f"tp-panel tp-{panel.state}" + (" tp-chosen" if chosen else "")
        parts.append(
            f'<article class="{classes}" data-place="{place}" aria-labelledby="tp-name-{place}"'
            f' aria-busy="{str(panel.state == "answering").lower()}">'
            f"{_header(place, panel, names[place], badge)}"
            f'<div class="tp-answer" tabindex="0" role="group" aria-label="Answer of {escape(panel.name)}">'
            f"{_talk(panel, question)}{_body(panel, pieces[place])}</div>"
            f"<footer>{_figures(panel, timed)}{_buttons(place, panel, votable, vote)}</footer>"
            f"{_fault(place, panel, reports, place in reported)}</article>"
        )
    parts.append("</div>")
    if votable:
        judged = {place: panel.name for place, panel in enumerate(panels) if panel.state != "failed"}
        parts.append(verdict_html(ballot, judged, vote))
    parts.append("</div>")
    return "".join(parts)


def problem_html(sentence: str) -> str:
    """Return a sentence on what is wrong, read aloud at once."""
    return f'<p class="tp-problem" role="alert">{escape(sentence)}</p>'


def visible(text: str) -> str:
    """Return an answer with the characters that a page drops or hides as their pictures (U+2400 on)."""
    return text.translate(_CONTROL)


def _header(place: int, panel: Panel, revealed: str, badge: str) -> str:
    letter, name = LETTERS[place], escape(panel.name)
    title = f'title="{name}">{name}'
    if panel.name == letter:  # its circle shows it
        title = f'title="{escape(revealed)}"><span class="tp-live">Answer {letter} </span>{escape(revealed)}'
    return (
        f'<header><span class="tp-letter" aria-hidden="true">{letter}</span>'
        f'<h3 id="tp-name-{place}" {title}</h3>{badge}'
        f'<span class="tp-state">{_STATES[panel.state]}</span></header>'
    )


def _talk(panel: Panel, question: Question | None) -> str:
    """Return what was asked and answered before, and the question now, if there was anything."""
    if not panel.before:
        return ""
    now = _asked(question) if question is not None else ""
    return "".join(map(_past, panel.before)) + f'<div class="tp-now">{now}</div>'


def _past(exchange: Exchange) -> str:
    answer = escape(visible(exchange.answer))
    return f'{_asked(exchange.question)}<p class="tp-past">{answer}</p>'


def _asked(question: Question) -> str:
    media = [word for word, path in (("picture", question.picture), ("recording", question.sound)) if path]
    words = question.text or f"({' and '.join(media)})"
    return f'<p class="tp-turn"><span class="tp-live">You asked: </span>{escape(words)}</p>'


def _body(panel: Panel, pieces: Sequence[Piece]) -> str:
    if panel.state == "ready":
        return '<p class="tp-hint">Its answer will appear here.</p>'
    if panel.state == "waiting":
        return '<p class="tp-hint">Waiting until it can begin.</p>'
    if panel.state == "failed":
        return f'<p class="tp-note">{escape(panel.note)}</p>'
    if panel.state == "answering":
        text = escape(visible(panel.text))
        return f'<p class="tp-text">{text}<span class="tp-caret" aria-hidden="true"></span></p>'
    if not panel.text:
        words = (
            "Stopped before it said anything." if panel.state == "stopped" else "It answered with nothing."
        )
        return f'<p class="tp-hint">{words}</p>'
    return f'<p class="tp-text">{"".join(map(_piece, pieces))}</p>'


def _piece(piece: Piece) -> str:
    text, alone = piece
    return f"<mark>{escape(text)}</mark>" if alone else escape(text)


def _figures(panel: Panel, timed: bool) -> str:
    if panel.state not in OVER or panel.seconds is None:
        return '<p class="tp-figures"></p>'
    words = f"<span>{panel.words} word{'' if panel.words == 1 else 's'}</span>"
    if not timed:
        return f'<p class="tp-figures">{words}</p>'
    how, told = "· alone", "It had the machine to itself"
    if panel.together > 1:
        how, told = f"· {panel.together} at once", f"{panel.together} variants answered in one batch"
    if panel.first is not None:
        told += f"; first word after {panel.first:.2f} s"
    time = f'<span title="{told}">{panel.seconds:.2f} s <small>{how}</small></span>'
    return f'<p class="tp-figures">{time}{words}</p>'


def _buttons(place: int, panel: Panel, votable: bool, vote: str | None) -> str:
    name = escape(panel.name)
    copy = best = ""
    if panel.text and panel.state in OVER:
        copy = (
            f'<button type="button" class="tp-copy" aria-label="Copy the answer of {name}">{_COPY}</button>'
        )
    pressed = vote == panel.name
    if votable and panel.state != "failed" and (pressed or not vote):
        best = best_button(place, panel.name, pressed, bool(vote))
    return f'<span class="tp-actions">{copy}{best}</span>'


def _fault(place: int, panel: Panel, token: str, reported: bool) -> str:
    answered = token and panel.state in ("done", "stopped")
    return report_html(place, panel.name, token, reported) if answered else ""


def _spoken(
    panels: Sequence[Panel], vote: str | None, names: Sequence[str], reported: Collection[int]
) -> str:
    """Return what a screen reader says; it changes once per answer, not once per word."""
    if reported and not vote:
        return " ".join(f"Your report on {panels[place].name} is kept." for place in sorted(reported))
    if vote:
        real = [f"{panel.name} is {name}." for panel, name in zip(panels, names, strict=True) if name]
        return " ".join(["Your verdict is kept.", *real])
    return " ".join(
        f"{panel.name}: {_STATES[panel.state].lower()}." for panel in panels if panel.state in OVER
    )

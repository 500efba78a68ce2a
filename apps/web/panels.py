"""The panels as HTML: every name, answer and sentence is escaped, so that none of them can be markup."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from apps.web.rounds import OVER, Panel

LETTERS = "ABCD"
_VERDICTS = {"tie": ("Tie", "T"), "both bad": ("All bad", "B"), "skip": ("Skip", "S")}

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


def panels_html(
    panels: Sequence[Panel],
    *,
    expected: str | None = None,
    matches: Sequence[bool] = (),
    votable: bool = False,
    vote: str | None = None,
    problem: str = "",
) -> str:
    """Return the answers side by side, with the verdict row when ``votable``.

    ``expected`` is the example's reference answer, shown once all answers are in, and ``matches``
    says which panels equal it; ``vote`` is the verdict that was given; ``problem`` a sentence about
    the question itself.
    """
    over = all(panel.state in OVER for panel in panels)
    matched = list(matches) if over and matches else [False] * len(panels)
    parts = [f'<div class="tp-board" data-count="{len(panels)}">']
    parts.append(f'<p class="tp-live" role="status">{escape(_spoken(panels, problem, vote))}</p>')
    parts.append(f'<p class="tp-problem" role="alert">{escape(problem)}</p>' if problem else "")
    if expected and over:
        parts.append(f'<p class="tp-expected"><b>Expected</b> <span>{escape(expected)}</span></p>')
    parts.append('<div class="tp-panels">')
    for place, (panel, match) in enumerate(zip(panels, matched, strict=True)):
        parts.append(_panel(place, panel, match, votable, vote))
    parts.append("</div>")
    if votable:
        parts.append(_verdict(vote))
    parts.append("</div>")
    return "".join(parts)


def visible(text: str) -> str:
    """Return an answer with the characters that a page drops or hides as their pictures (U+2400 on)."""
    return text.translate(_CONTROL)


def _panel(place: int, panel: Panel, match: bool, votable: bool, vote: str | None) -> str:
    letter, name = LETTERS[place], escape(panel.name)
    chosen = votable and vote == panel.name
    classes = f"tp-panel tp-{panel.state}" + (" tp-chosen" if chosen else "")
    badge = '<span class="tp-match">as expected</span>' if match else ""
    return (
        f'<article class="{classes}" data-place="{place}" aria-labelledby="tp-name-{place}"'
        f' aria-busy="{str(panel.state == "answering").lower()}">'
        f'<header><span class="tp-letter" aria-hidden="true">{letter}</span>'
        f'<h3 id="tp-name-{place}" title="{name}">{name}</h3>{badge}'
        f'<span class="tp-state">{_STATES[panel.state]}</span></header>'
        f'<div class="tp-answer" tabindex="0">{_body(panel)}</div>'
        f"<footer>{_figures(panel)}{_buttons(place, panel, votable, vote)}</footer></article>"
    )


def _body(panel: Panel) -> str:
    if panel.state == "ready":
        return '<p class="tp-hint">Its answer will appear here.</p>'
    if panel.state == "waiting":
        return '<p class="tp-hint">Answers after the panel before it.</p>'
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
    return f'<p class="tp-text">{escape(visible(panel.text))}</p>'


def _figures(panel: Panel) -> str:
    if panel.seconds is None or panel.state not in OVER:
        return '<p class="tp-figures"></p>'
    words = f"{panel.words} word{'' if panel.words == 1 else 's'}"
    first = "" if panel.first is None else f" title='first word after {panel.first:.2f} s'"
    return f'<p class="tp-figures"><span{first}>{panel.seconds:.2f} s</span><span>{words}</span></p>'


def _buttons(place: int, panel: Panel, votable: bool, vote: str | None) -> str:
    name = escape(panel.name)
    copy = best = ""
    if panel.text and panel.state in OVER:
        copy = (
            f'<button type="button" class="tp-copy" aria-label="Copy the answer of {name}">{_COPY}</button>'
        )
    pressed = vote == panel.name
    if votable and panel.state != "failed" and (pressed or not vote):
        word = "Your choice" if pressed else "Best"
        best = (
            f'<button type="button" class="tp-vote" data-vote="{place}" aria-pressed="{str(pressed).lower()}"'
            f' aria-keyshortcuts="{place + 1}"{" disabled" if vote else ""}'
            f' aria-label="{name} is the best">{word}<kbd>{place + 1}</kbd></button>'
        )
    return f'<span class="tp-actions">{copy}{best}</span>'


def _verdict(vote: str | None) -> str:
    buttons = "".join(
        f'<button type="button" class="tp-vote" data-vote="{key}" aria-pressed="{str(vote == key).lower()}"'
        f' aria-keyshortcuts="{letter}"{" disabled" if vote else ""}>{word}<kbd>{letter}</kbd></button>'
        for key, (word, letter) in _VERDICTS.items()
        if vote in (None, key)
    )
    words = "Thank you, your verdict is kept." if vote else "Which answer is best?"
    return (
        f'<div class="tp-verdict" role="group" aria-label="Your verdict"><span>{words}</span>{buttons}</div>'
    )


def _spoken(panels: Sequence[Panel], problem: str, vote: str | None) -> str:
    """Return what a screen reader says; it changes once per answer, not once per word."""
    if problem:
        return ""
    if vote:
        return "Your verdict is kept."
    if all(panel.state == "ready" for panel in panels):
        return ""
    return " ".join(f"{panel.name}: {_STATES[panel.state].lower()}." for panel in panels)

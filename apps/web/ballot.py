"""The verdict's part of the board as HTML: who is best, and why."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from apps.web.voting import LONGEST_CORRECTION, LONGEST_NOTE, POINTS, Ballot, Form

VERDICTS = {"tie": ("Tie", "T"), "both bad": ("All bad", "B"), "skip": ("Skip", "S")}
"""What a verdict may say beside naming a panel: its words and its key."""

VOTES = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('.tp-vote');"
    " if (button && !button.disabled) trigger('select', window.triptych.verdict(button)); });"
)
"""What a `gr.HTML` that shows a board needs as ``js_on_load``, to tell its ``select`` event of a verdict."""


def verdict_html(ballot: Ballot | None, titles: Mapping[int, str], vote: str | None) -> str:
    """Return the row of verdicts, and before one is given the fields for its reasons, if there is a ballot.

    ``titles`` are those of the panels that can be judged, by place.
    """
    buttons = "".join(
        f'<button type="button" class="tp-vote" data-vote="{key}" aria-pressed="{str(vote == key).lower()}"'
        f' aria-keyshortcuts="{letter}"{" disabled" if vote else ""}>{word}<kbd>{letter}</kbd></button>'
        for key, (word, letter) in VERDICTS.items()
        if vote in (None, key)
    )
    words = "Thank you, your verdict is kept." if vote else "Which answer is best?"
    why = "" if vote or ballot is None else _why(ballot.form, titles)
    return (
        f'<div class="tp-verdict" role="group" aria-label="Your verdict">'
        f"{why}<span>{words}</span>{buttons}</div>"
    )


def best_button(place: int, name: str, pressed: bool, judged: bool) -> str:
    """Return the button that says that a panel's answer is the best."""
    word = "Your choice" if pressed else "Best"
    return (
        f'<button type="button" class="tp-vote" data-vote="{place}" aria-pressed="{str(pressed).lower()}"'
        f' aria-keyshortcuts="{place + 1}"{" disabled" if judged else ""}'
        f' aria-label="{escape(name)} is the best">{word}<kbd>{place + 1}</kbd></button>'
    )


def _why(form: Form, titles: Mapping[int, str]) -> str:
    chips = "".join(
        f'<label class="tp-reason"><input type="checkbox" value="{escape(word)}">'
        f"<span>{escape(word)}</span></label>"
        for word in form.reasons
    )
    reasons = f"<fieldset><legend>What is wrong with the others</legend>{chips}</fieldset>" if chips else ""
    return (
        '<details class="tp-because"><summary>Say why, before you choose</summary>'
        f"{reasons}{_scores(form, titles)}"
        f'<label class="tp-field">Note<textarea name="tp-note" rows="2" maxlength="{LONGEST_NOTE}">'
        "</textarea></label>"
        '<label class="tp-field">The answer as it should have been<textarea name="tp-correction" rows="2"'
        f' maxlength="{LONGEST_CORRECTION}"></textarea></label></details>'
    )


def _scores(form: Form, titles: Mapping[int, str]) -> str:
    """Return a table of panels by criteria; each cell takes points."""
    if not form.criteria:
        return ""
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in form.criteria)
    options = '<option value="">&ndash;</option>' + "".join(f"<option>{n}</option>" for n in POINTS)
    rows = "".join(
        f'<tr><th scope="row">{escape(title)}</th>'
        + "".join(
            f'<td><select class="tp-score" data-place="{place}" data-criterion="{escape(word)}"'
            f' aria-label="{escape(title)}: {escape(word)}">{options}</select></td>'
            for word in form.criteria
        )
        + "</tr>"
        for place, title in titles.items()
    )
    return (
        f'<table class="tp-scores"><caption>Points, {POINTS[-1]} is best</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )

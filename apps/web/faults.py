"""\"This answer is wrong\": the control at each answer, the check of what it sends, and keeping it.

The page knows an answer by its place and by a token that only who was shown the answers has; which variant
gave it, the store learns from the server.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from apps.web.visitors import Visitor
from apps.web.voting import LONGEST_CORRECTION, LONGEST_NOTE
from studio.errors import DataError, TriptychError

if TYPE_CHECKING:
    from apps.web.desk import Desk
    from apps.web.rounds import Round

REPORTS = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('.tp-fault-send');"
    " if (button && !button.disabled) trigger('submit', window.triptych.fault(button)); });"
)
"""What a `gr.HTML` with a board needs in its ``js_on_load``, to tell its ``submit`` event of a report."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A checked report: the place of the answer, what is wrong with it, and what would have been right."""

    place: int
    wrong: str
    right: str


def read_report(sent: Any, done: Round) -> Report:
    """Return the report in what a page sent about a finished round.

    Raises:
        DataError: another token than the round's, no such answer, nothing said, or too much.
    """
    told = sent if isinstance(sent, Mapping) else {}
    token = told.get("token")
    if not isinstance(token, str) or not secrets.compare_digest(token.encode(), report_token(done).encode()):
        raise DataError("That report belongs to other answers than those shown; it was not kept.")
    place = told.get("place")
    if type(place) is not int or place not in reportable(done):
        raise DataError("There is no such answer to report.")
    wrong = _text(told.get("wrong"), "description", LONGEST_NOTE)
    right = _text(told.get("right"), "right answer", LONGEST_CORRECTION)
    if not wrong and not right:
        raise DataError("Say what is wrong with the answer, or write the right one.")
    if right and right == done.panels[place].text.strip():
        raise DataError("That right answer is the answer that was given; say what is wrong with it.")
    return Report(place=place, wrong=wrong, right=right)


def keep_report(desk: Desk, seat: str, who: Visitor, sent: Any) -> None:
    """Keep a visitor's report on an answer of the finished round; when this returns, it is in the store.

    A second report of the same visitor on the same answer replaces the first.

    Raises:
        DataError: there is nothing to report, or the report is not in order.
        Refused: too many in a short time.
    """
    done = desk.round(seat)
    if done is None or not done.over or done.kept is None:
        raise DataError("There is no finished answer to report.")
    report = read_report(sent, done)
    desk.limits.spend("reports", who)
    variant = done.names[done.panels[report.place].name]
    try:
        desk.store.report(
            done.kept,
            variant,
            rater=who.name,
            wrong=report.wrong,
            correction=report.right,
            rater_group=who.group,
        )
    except TriptychError as error:
        print(error, file=sys.stderr)
        raise DataError("The report could not be kept; try again.") from None
    done.reported.add(report.place)


def report_token(done: Round) -> str:
    """Return what proves that somebody was shown a round's answers; the ballot's token is not told."""
    return hashlib.sha256(f"report {done.ballot.token}".encode()).hexdigest()[:32]


def reportable(done: Round) -> Collection[int]:
    """Return the places of the answers that were kept, of a round that is over."""
    return [place for place, panel in enumerate(done.panels) if panel.state in ("done", "stopped")]


def _text(sent: Any, what: str, most: int) -> str:
    text = sent.strip() if isinstance(sent, str) else ""
    if len(text) > most:
        raise DataError(f"The {what} has {len(text)} characters; at most {most} are allowed.")
    return text


def report_html(place: int, name: str, token: str, reported: bool) -> str:
    """Return the control at one answer, or the word that it was reported."""
    if reported:
        return '<p class="tp-reported">Reported, thank you.</p>'
    shown = escape(name)
    return (
        f'<details class="tp-fault" data-place="{place}" data-fault="{escape(token)}">'
        f'<summary>This answer is wrong<span class="tp-live"> ({shown})</span></summary>'
        f'<label class="tp-field">What is wrong<textarea class="tp-wrong" rows="2"'
        f' maxlength="{LONGEST_NOTE}"></textarea></label>'
        '<label class="tp-field">The right answer, if you know it'
        f'<textarea class="tp-right" rows="2" maxlength="{LONGEST_CORRECTION}"></textarea></label>'
        f'<button type="button" class="tp-fault-send" aria-label="Report the answer of {shown}">'
        "Report</button>"
        "</details>"
    )

"""What a verdict may say beside its choice, and the check of what a page sent.

Reasons and criteria are lists that an administrator edits on the Compare page. They are kept in a file, so
that they are the same after a restart, and for an app on any kind of store.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import DataError, TriptychError
from studio.files import atomic_write

MOST_REASONS, MOST_CRITERIA, LONGEST_WORD = 12, 6, 40
LONGEST_NOTE, LONGEST_CORRECTION = 2000, 4000
"""Longest note and correction, in characters."""
POINTS = range(1, 6)
"""What a criterion may be given, the last is the best."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The reasons that can be ticked, and the criteria for which each answer can be given points."""

    reasons: tuple[str, ...] = ("wrong", "unsafe", "missed something", "wording")
    criteria: tuple[str, ...] = ("correctness", "usefulness")


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """The right to one verdict on one round: who knows the ``token`` was shown its answers."""

    form: Form = Form()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(18))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A checked verdict: ``vote`` as it was sent, ``points`` by (place of the panel, criterion)."""

    vote: str
    reasons: tuple[str, ...] = ()
    points: Mapping[tuple[int, str], int] = field(default_factory=dict)
    note: str = ""
    correction: str = ""


def make_form(reasons: Any, criteria: Any) -> Form:
    """Return the form with the lines of two texts, or of two lists, as its words.

    Raises:
        DataError: too many words, a word that is too long or stands twice, or a colon in a criterion.
    """
    form = Form(
        reasons=_words(reasons, "reasons", MOST_REASONS), criteria=_words(criteria, "criteria", MOST_CRITERIA)
    )
    if any(":" in word for word in form.criteria):
        raise DataError("A criterion holds no colon; points are kept as 'criterion: variant'.")
    return form


def read_form(file: Path) -> Form:
    """Return the form that is kept in a file, or the first one if there is no file.

    Raises:
        TriptychError: the file is there and holds no form.
    """
    if not file.exists():
        return Form()
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return make_form(list(told["reasons"]), list(told["criteria"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TriptychError(
            f"{file} holds no reasons and criteria ({error}); mend it, or remove it for the first ones"
        ) from None


def write_form(file: Path, form: Form) -> None:
    """Keep the form in a file."""
    atomic_write(file, json.dumps(asdict(form), ensure_ascii=False, indent=1) + "\n")


def read_verdict(sent: Any, ballot: Ballot, places: int) -> Verdict:
    """Return the verdict in what a page sent about a round of ``places`` panels.

    Raises:
        DataError: another token than the ballot's, or a field that the form does not offer.
    """
    told = sent if isinstance(sent, Mapping) else {}
    token = told.get("token")
    if not isinstance(token, str) or not secrets.compare_digest(token.encode(), ballot.token.encode()):
        raise DataError("That verdict belongs to other answers than those shown; it was not kept.")
    reasons = told.get("reasons") or []
    if not isinstance(reasons, list) or any(reason not in ballot.form.reasons for reason in reasons):
        raise DataError("That is not a reason that this page offers.")
    return Verdict(
        vote=str(told.get("vote")),
        reasons=tuple(dict.fromkeys(reasons)),
        points=dict(_points(told.get("scores") or [], ballot.form, places)),
        note=_text(told.get("note"), "note", LONGEST_NOTE),
        correction=_text(told.get("correction"), "correction", LONGEST_CORRECTION),
    )


def _points(sent: Any, form: Form, places: int) -> list[tuple[tuple[int, str], int]]:
    found = []
    for one in sent if isinstance(sent, list) else [None]:
        told = one if isinstance(one, Mapping) else {}
        place, criterion, points = told.get("place"), told.get("criterion"), told.get("points")
        right = type(place) is int and 0 <= place < places and type(points) is int and points in POINTS
        if not right or criterion not in form.criteria:
            raise DataError(f"Points go from {POINTS[0]} to {POINTS[-1]}, for an answer and a criterion.")
        found.append(((place, criterion), points))
    return found


def _text(sent: Any, what: str, most: int) -> str:
    text = sent.strip() if isinstance(sent, str) else ""
    if len(text) > most:
        raise DataError(f"The {what} has {len(text)} characters; at most {most} are allowed.")
    return text


def _words(told: Any, what: str, most: int) -> tuple[str, ...]:
    lines = told if isinstance(told, list) else str(told or "").splitlines()
    words = [" ".join(str(line).split()) for line in lines]
    words = [word for word in words if word]
    if len(words) > most:
        raise DataError(f"{len(words)} {what} are too many; at most {most} fit on the page.")
    for word in words:
        if len(word) > LONGEST_WORD:
            raise DataError(f"'{word[:LONGEST_WORD]}...' is too long; at most {LONGEST_WORD} characters.")
        if words.count(word) > 1:
            raise DataError(f"'{word}' stands twice among the {what}.")
    return tuple(words)

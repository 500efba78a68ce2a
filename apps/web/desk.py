"""What all pages share: the engine, the store, and each visitor's open round; the only state of the app."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from apps.web.draw import Draw
from apps.web.examples import Examples
from apps.web.faults import report_token
from apps.web.keep import Keeper
from apps.web.limits import Limits
from apps.web.panels import LETTERS, panels_html
from apps.web.question import Exchange, Question, read_choice
from apps.web.rounds import Answerer, Asked, Decoding, Panel, Round, Source
from apps.web.visitors import Refused, Visitor, anyone, judge, require
from apps.web.voting import Ballot, Form, read_form, read_verdict, write_form
from studio.errors import DataError, TriptychError
from studio.giveaway import given_away, telling_names
from studio.store import VERDICTS, Store

MOST = len(LETTERS)
"""Most variants side by side."""
LONGEST_TALK = 8
"""Most questions of one conversation."""
_REMEMBERED = 500
"""Pages whose round is remembered; the least recently asking one is forgotten."""
LOST = "These answers could not all be kept in the store; the server's log says why."


class Desk:
    """The app's memory while it runs.

    ``visitors`` tells who a request comes from, or raises `apps.web.visitors.Refused`; None lets
    everyone in, as administrator, or as expert where ``blind`` hides the variants' names until a
    verdict is given. Runs, merge files and uploads that pages make stand below the folder ``runs``.
    ``form`` is what a verdict may say.
    """

    def __init__(
        self,
        engine: Answerer,
        store: Store,
        examples: Examples,
        *,
        media: Path | None = None,
        runs: Path = Path("runs"),
        blind: bool = False,
        visitors: Callable[[Any], Visitor] | None = None,
    ) -> None:
        """Open the desk over an engine with at least two variants."""
        if len(engine.names) < 2:
            have = ", ".join(engine.names) or "none"
            raise TriptychError(f"comparing needs at least two variants, this engine has {have}")
        taken = sorted(set(engine.names) & set(VERDICTS))
        if taken:
            raise TriptychError(f"a variant cannot be named '{taken[0]}', which is a verdict")
        self.engine, self.store, self.examples = engine, store, examples
        self.media, self.runs, self.blind = media, Path(runs), blind
        self.form = read_form(self._form_file)
        self._visitors = visitors or (judge if blind else anyone)
        self.limits = Limits()
        self._draw: Draw | None = None
        self._turn = threading.Lock()
        self._rounds: dict[str, Round] = {}
        self._guard = threading.Lock()

    @property
    def turn(self) -> threading.Lock:
        """The lock that keeps work on the models apart, so that the times of answers can be compared."""
        return self._turn

    @property
    def labels(self) -> dict[str, str]:
        """Label -> name of the variants that may be compared now: live mixes are their makers' alone."""
        return labels(list(getattr(self.engine, "folders", self.engine.names)))

    def admit(self, request: Any, role: str = "expert") -> Visitor:
        """Return who a request comes from; every handler of every page calls this before all else.

        Raises:
            Refused: nobody who is known, or someone whose role is not enough.
        """
        return require(self._visitors(request), role)

    def seat(self, request: Any, role: str = "expert") -> tuple[str, Visitor]:
        """Return the key under which a visitor's open page has its round, and the visitor.

        The key holds the visitor's name: a page's own number is chosen by the browser.

        Raises:
            Refused: as `admit`.
        """
        who = self.admit(request, role)
        return f"{who.name}/{request.session_hash or ''}", who

    def chosen(self, labels: Any) -> list[str]:
        """Return the names of 2 to `MOST` variants that were chosen by their labels; `DataError` if not."""
        known = self.labels
        return [known[label] for label in read_choice(labels, known, most=MOST)]

    def drawn(self, count: Any = 2) -> list[str]:
        """Return the names of ``count`` variants, those least compared with each other, in random order.

        A count that is no number from 2 to `MOST` counts as the nearest that is.
        """
        wanted = count if isinstance(count, int) else 2
        with self._guard:
            if self._draw is None:
                self._draw = Draw(one.variants for one in self.store.comparisons())
        return self._draw.pick(list(self.labels.values()), min(max(wanted, 2), MOST))

    def open(
        self,
        seat: str,
        who: Visitor,
        question: Question,
        names: Sequence[str],
        decoding: Decoding,
        *,
        blind: bool = False,
        source: Source | None = None,
    ) -> Round:
        """Begin a round of these variants, in this order; the one before it at this seat is stopped.

        With ``blind`` the panels are named A, B, C, D until a verdict is kept.
        """
        if blind:
            titles = dict(zip(LETTERS, names, strict=False))
        else:
            shown = {name: label for label, name in self.labels.items()}
            titles = {shown.get(name, name): name for name in names}
        asked = Asked(
            question=question, names=titles, decoding=decoding, blind=blind, source=source or Source()
        )
        return self._begin(seat, who, asked)

    def start(
        self,
        seat: str,
        question: Question,
        names: Mapping[str, str],
        decoding: Decoding,
        keeper: Keeper,
        *,
        blind: bool = False,
    ) -> Round:
        """Begin a round whose panels have titles of their own, kept by a keeper of its own.

        ``names`` maps the titles to the engine's names; with ``blind`` no sentence of the round names one.
        """
        asked = Asked(question=question, names=dict(names), decoding=decoding, blind=blind)
        return self._seated(seat, asked, keeper)

    def follow(self, seat: str, who: Visitor, question: Question, decoding: Decoding) -> Round:
        """Ask the variants of the finished round at this seat further, each after its own answers.

        Raises:
            DataError: there is nothing to go on from.
        """
        done = self.round(seat)
        if done is None or not done.over:
            raise DataError("There is no finished answer to ask about; send a question first.")
        if why := why_not_further(done):
            raise DataError(why)
        before = {
            panel.name: (*panel.before, Exchange(question=done.asked.question, answer=panel.text))
            for panel in done.panels
            if _answered(panel)
        }
        best = done.vote if done.vote in before else next(iter(before))
        further = replace(
            done.asked,
            question=question,
            decoding=decoding,
            source=Source(domain=done.asked.source.domain),
            before=before,
            best=str(best),
        )
        return self._begin(seat, who, further)

    def again(
        self, seat: str, who: Visitor, names: Sequence[str], decoding: Decoding, *, blind: bool = False
    ) -> Round:
        """Ask the last question at this seat once more, of these variants.

        The same ones as before answer in the same panels, a conversation included, unless it was blind and
        the names are known by now.

        Raises:
            DataError: there is no question, or a conversation would go on with other variants.
        """
        last = self.round(seat)
        if last is None:
            raise DataError("There is no question to repeat; send one first.")
        asked = last.asked
        known = asked.blind and last.vote is not None
        if set(names) == set(asked.names.values()) and blind == asked.blind and not known:
            return self._begin(seat, who, replace(asked, decoding=decoding))
        if asked.before:
            raise DataError("A conversation goes on with the variants it began with; send a new question.")
        return self.open(seat, who, asked.question, names, decoding, blind=blind, source=asked.source)

    def round(self, seat: str) -> Round | None:
        """Return the visitor's round, running or finished."""
        return self._rounds.get(seat)

    def leave(self, request: Any) -> None:
        """Stop what runs for a page that was closed; what it has can still be judged if it comes back."""
        try:
            left = self.round(self.seat(request)[0])
        except Refused:
            return
        if left is not None:
            left.stop()

    def board(self, seat: str, titles: Any = None, problem: str = "") -> str:
        """Return the panels as HTML: the round at this seat, or empty panels under these titles."""
        done = self.round(seat)
        wanted = list(dict.fromkeys(map(str, titles)))[:MOST] if isinstance(titles, list) else []
        if done is None or (titles is not None and wanted != list(done.names)):
            keep = done is not None and done.over and not done.asked.blind
            known = {panel.name: panel for panel in done.panels} if done and keep else {}
            return panels_html([known.get(title, Panel(name=title)) for title in wanted], problem=problem)
        asked = done.asked
        votable = done.over and done.kept is not None and any(p.state == "done" for p in done.panels)
        return panels_html(
            done.panels,
            expected=asked.source.expected,
            matches=[_same(panel.text, asked.source.expected) for panel in done.panels],
            ballot=done.ballot if votable else None,
            vote=done.vote,
            question=asked.question,
            blind=asked.blind,
            revealed=self.names_of(done),
            problem=problem or (LOST if done.over and done.lost else ""),
            reports=report_token(done) if done.over and done.kept is not None else "",
            reported=done.reported,
        )

    def names_of(self, done: Round) -> list[str]:
        """Return the labels of a blind round's variants by panel once it was judged, else nothing."""
        if not done.asked.blind or done.vote is None:
            return []
        shown = {name: label for label, name in self.labels.items()}
        return [shown.get(name, name) for name in done.names.values()]

    def vote(self, seat: str, who: Visitor, sent: Any) -> None:
        """Keep a visitor's verdict on the finished round; when this returns, it is in the store.

        ``sent`` is what the page sends: ``vote`` (a panel's place, or one of `VERDICTS`), the ``token`` that
        the answers were shown with, and what `apps.web.voting.read_verdict` reads beside them.

        Raises:
            DataError: there is nothing to judge, it was judged before, or the verdict is not in order.
            Refused: too many verdicts in a short time.
        """
        done = self.round(seat)
        if done is None or not done.over or done.kept is None:
            raise DataError("There is no finished comparison to judge.")
        verdict = read_verdict(sent, done.ballot, len(done.panels))
        self.limits.spend("votes", who)
        seconds = time.monotonic() - done.ended
        places = {str(place): panel for place, panel in enumerate(done.panels) if panel.state != "failed"}
        if verdict.vote not in places and verdict.vote not in VERDICTS:
            raise DataError("That is not a verdict that this page offers.")
        choice = places[verdict.vote].name if verdict.vote in places else verdict.vote
        names = done.names
        shown = list(names.values())
        with done.judging:
            if done.vote is not None:
                raise DataError("This comparison was judged before.")
            try:
                self.store.vote(
                    done.kept,
                    names.get(choice, choice),
                    rater=who.name,
                    reasons=verdict.reasons,
                    note=verdict.note,
                    scores={f"{what}: {shown[at]}": n for (at, what), n in verdict.points.items()},
                    correction=verdict.correction,
                    rater_group=who.group,
                    flagged=done.asked.blind and self.named(done) is not None,
                    seconds=seconds,
                )
            except TriptychError as error:
                print(error, file=sys.stderr)
                raise DataError("The verdict could not be kept; try again.") from None
            done.vote = choice

    def named(self, done: Round) -> str | None:
        """Return a variant's name that an answer gives away; a guess is as good as the truth."""
        engine: Any = self.engine
        folders = dict.fromkeys(engine.names) | dict(getattr(engine, "folders", {}))
        places = {name: None if path is None else str(path) for name, path in folders.items()}
        names = telling_names(places, str(getattr(engine, "base", "")))
        return given_away([panel.text for panel in done.panels], names, done.question.text)

    def edit_form(self, form: Form) -> None:
        """Offer other reasons and criteria from the next round on."""
        write_form(self._form_file, form)
        self.form = form

    @property
    def _form_file(self) -> Path:
        return self.runs / "verdict-form.json"

    def _begin(self, seat: str, who: Visitor, asked: Asked) -> Round:
        self.limits.spend("questions", who)
        return self._seated(seat, asked, Keeper(self.store, who.name, self.media))

    def _seated(self, seat: str, asked: Asked, keeper: Keeper) -> Round:
        fresh = Round(self.engine, asked, turn=self._turn, keeper=keeper, ballot=Ballot(form=self.form))
        with self._guard:
            before = self._rounds.pop(seat, None)
            self._rounds[seat] = fresh
            while len(self._rounds) > _REMEMBERED:
                self._rounds.pop(next(iter(self._rounds))).stop()
        if before is not None:
            before.stop()
        if self._draw is not None:
            self._draw.count(list(asked.names.values()))
        return fresh.start()


def why_not_further(done: Round) -> str:
    """Return why a finished round's variants cannot be asked further, as a sentence, or nothing."""
    talk = max((len(panel.before) for panel in done.panels), default=0) + 1
    if done.asked.blind and done.vote is not None:
        return "The names are known now; send a new question."
    if talk >= LONGEST_TALK:
        return f"A conversation has at most {LONGEST_TALK} questions; send a new one."
    if not any(map(_answered, done.panels)):
        return "No variant gave an answer that could be asked about; send a new question."
    return ""


def _answered(panel: Panel) -> bool:
    """Return whether a panel's variant can be asked further; an answer of no words is one."""
    return panel.state == "done" or (panel.state == "stopped" and bool(panel.text))


def first_choice(names: Sequence[str]) -> list[str]:
    """Return the variants chosen when the page opens: the newest three, or all if there are fewer."""
    return list(names)[-3:]


def labels(names: Sequence[str]) -> dict[str, str]:
    """Return label -> name; of a name that is a path, the label is as few last parts as tell it apart."""
    shown: dict[str, str] = {}
    for name in names:
        parts = PurePath(name).parts[1:] if PurePath(name).is_absolute() else (name,)
        tails = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        shown[next((tail for tail in tails if tail not in shown), f"{tails[-1]} ({len(shown) + 1})")] = name
    return shown


def _same(text: str, expected: str | None) -> bool:
    from studio.metrics.exact_match import score

    return bool(expected) and score([text], [expected or ""]) == 1.0

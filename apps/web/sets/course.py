"""An expert's way through a question set: blind pairs, verdicts in the store, and nothing else to lose.

Panels are titled A and B: which variants they are is known to the server alone and is never told, not even
after the verdict. Both answers appear together and without their times, as either would favour a side.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from apps.web.desk import Desk
from apps.web.keep import Keeper
from apps.web.panels import panels_html
from apps.web.question import Question
from apps.web.rounds import Decoding, Panel, Round
from apps.web.visitors import Visitor
from studio.errors import DataError, TriptychError
from studio.files import stamp
from studio.giveaway import given_away, telling_names
from studio.next_question import Next, Place, place
from studio.question_sets import ABOUT, QuestionSet, read_set
from studio.store import VERDICTS
from studio.types import Text

TITLES = ("Answer A", "Answer B")
DECODING = Decoding(max_new_tokens=128)
_FAILED = "This answer could not be made. Judge without it, or skip the question."
_REMEMBERED = 500


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a visitor's page shows: a set's question, its round, and since when it can be judged."""

    set: QuestionSet
    next: Next
    round: Round
    since: float


class Course:
    """The question sets of an app, and for every open page the question that it shows."""

    def __init__(self, desk: Desk) -> None:
        """Look for sets in the folder ``questions`` of the desk's runs."""
        self.desk, self.root = desk, Path(desk.runs) / "questions"
        self._read: dict[str, QuestionSet] = {}
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._guard = threading.Lock()

    def sets(self) -> list[QuestionSet]:
        """Return the newest version of each set; one that cannot be read is told in the log and left out."""
        newest: dict[str, QuestionSet] = {}
        for file in sorted(self.root.glob(f"*/v*/{ABOUT}")):
            mark = f"{file} {stamp(file)}"
            try:
                if mark not in self._read:
                    self._read[mark] = read_set(file.parent)
            except TriptychError as error:
                print(error, file=sys.stderr)
                continue
            one = self._read[mark]
            if one.name not in newest or newest[one.name].version < one.version:
                newest[one.name] = one
        return [newest[name] for name in sorted(newest)]

    def find(self, digest: Any) -> QuestionSet:
        """Return the set with a hash; `DataError` if there is none."""
        for one in self.sets():
            if one.hash == digest:
                return one
        raise DataError("There is no such question set any more; load the page again.")

    def place(self, chosen: QuestionSet, who: Visitor) -> Place:
        """Return how far a visitor is in a set and what comes next."""
        store = self.desk.store
        return place(
            [one.id for one in chosen.questions],
            self.desk.engine.names,
            store.comparisons(question_set=chosen.hash),
            store.votes(question_set=chosen.hash),
            who.name,
        )

    def ask(self, session: str, who: Visitor, chosen: QuestionSet) -> Round | None:
        """Send the next question to its two variants; None at the end of the set."""
        following = self.place(chosen, who).next
        if following is None:
            with self._guard:
                self._asked.pop(session, None)
            return None
        found = next(one for one in chosen.questions if one.id == following.question)
        about = {
            "question_set": chosen.hash,
            "question": found.id,
            "domain": found.domain,
            "blind": True,
        }
        asked = self.desk.start(
            session,
            Question(
                text="".join(part.text for part in found.sample.prompt[0].parts if isinstance(part, Text)),
                picture=next((image.path for image in found.sample.images), None),
                sound=next((sound.path for sound in found.sample.sounds), None),
            ),
            dict(zip(TITLES, following.variants, strict=True)),
            DECODING,
            Keeper(self.desk.store, who.name, self.desk.media, about),
        )
        with self._guard:
            self._asked[session] = _Asked(set=chosen, next=following, round=asked, since=time.monotonic())
            self._asked.move_to_end(session)
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
        return asked

    def shown(self, session: str) -> Question | None:
        """Return the question that a page shows."""
        asked = self._asked.get(session)
        return asked.round.question if asked else None

    def ready(self, session: str) -> None:
        """Let the time that a visitor looks begin: the answers are there."""
        with self._guard:
            if session in self._asked:
                self._asked[session] = replace(self._asked[session], since=time.monotonic())

    def board(self, session: str, problem: str = "") -> str:
        """Return the two panels as HTML, with the verdict row once both have ended."""
        asked = self._asked.get(session)
        if asked is None:
            return f'<p class="tp-problem" role="alert">{escape(problem)}</p>' if problem else ""
        panels = [self._blind(panel, asked.round.over) for panel in asked.round.panels]
        judge = asked.round.over and asked.round.kept is not None
        inside = panels_html(panels, votable=judge, vote=asked.round.vote, problem=problem)
        return f'<div class="tp-course" data-asked="{asked.round.kept or 0}">{inside}</div>'

    def vote(self, session: str, who: Visitor, choice: str, asked: str) -> QuestionSet:
        """Keep a verdict on the question that a page shows, and return the set that it is from.

        Raises:
            DataError: there is nothing to judge, the verdict is on another question than ``asked``, it was
                given before, or it is unknown.
        """
        found = self._asked.get(session)
        if found is None or not found.round.over or found.round.kept is None:
            raise DataError("There is no question to judge; go on with the set.")
        done = found.round
        if asked != str(done.kept):
            raise DataError("That verdict was about another question; judge the one that is shown.")
        whole = {str(at): panel for at, panel in enumerate(done.panels) if panel.state != "failed"}
        if choice not in whole and choice not in VERDICTS:
            raise DataError("That is not a verdict that this page offers.")
        if choice in ("tie", "both bad") and len(whole) < 2:
            raise DataError("An answer is missing: choose the other one, or skip the question.")
        with self._guard:
            if done.vote is not None:
                raise DataError("This question was judged before.")
            try:
                self.desk.store.vote(
                    done.kept,
                    done.names[whole[choice].name] if choice in whole else choice,
                    rater=who.name,
                    rater_group=who.group,
                    flagged=self._named(done) is not None,
                    seconds=round(time.monotonic() - found.since, 3),
                )
            except TriptychError as error:
                print(error, file=sys.stderr)
                raise DataError("The verdict could not be kept; try again.") from None
            done.vote = whole[choice].name if choice in whole else choice
        return found.set

    def _named(self, done: Round) -> str | None:
        """Return a name that an answer gives away, of any variant: a guess is as good as the truth."""
        engine: Any = self.desk.engine
        folders = dict.fromkeys(engine.names) | dict(getattr(engine, "folders", {}))
        names = telling_names(
            {name: None if path is None else str(path) for name, path in folders.items()},
            str(getattr(engine, "base", "")),
        )
        return given_away([panel.text for panel in done.panels], names, done.question.text)

    def _blind(self, panel: Panel, over: bool) -> Panel:
        """Return a panel as experts see it: empty before both have ended, without times and reasons."""
        if panel.state == "failed" and over:
            return replace(panel, note=_FAILED, seconds=None)
        if over:
            return replace(panel, seconds=None, first=None)
        return Panel(name=panel.name, state="answering")

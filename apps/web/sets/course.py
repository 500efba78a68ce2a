"""An expert's way through a question set: blind pairs, verdicts in the store, and nothing else to lose.

Which variants answered is known to the server alone and is never told, not even after the verdict: the same
two come again with the sides exchanged. Both answers appear together, or the first would be favoured.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.web.desk import Desk
from apps.web.panels import panels_html, problem_html
from apps.web.question import Question
from apps.web.rounds import Decoding, Round, Source
from apps.web.visitors import Visitor
from studio.errors import DataError, TriptychError
from studio.files import stamp
from studio.next_question import Place, place
from studio.question_sets import ABOUT, QuestionSet, read_set

DECODING = Decoding(max_new_tokens=128)


class Course:
    """The question sets of an app, and the way that each visitor goes through them."""

    def __init__(self, desk: Desk) -> None:
        """Look for sets in the folder ``questions`` of the desk's runs."""
        self.desk, self.root = desk, Path(desk.runs) / "questions"
        self._read: dict[str, QuestionSet] = {}

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
            list(self.desk.labels.values()),
            store.comparisons(question_set=chosen.hash),
            store.votes(question_set=chosen.hash),
            who.name,
        )

    def ask(self, seat: str, who: Visitor, chosen: QuestionSet) -> Round | None:
        """Send the next question to its two variants; None at the end of the set."""
        following = self.place(chosen, who).next
        if following is None:
            return None
        found = next(one for one in chosen.questions if one.id == following.question)
        question = Question(
            text=found.sample.prompt[0].text.strip(),
            picture=next((image.path for image in found.sample.images), None),
            sound=next((sound.path for sound in found.sample.sounds), None),
        )
        source = Source(domain=found.domain, question_set=chosen.hash, question=found.id)
        return self.desk.open(seat, who, question, following.variants, DECODING, blind=True, source=source)

    def vote(self, seat: str, who: Visitor, sent: Any) -> QuestionSet:
        """Keep a verdict on the question at this seat, and return the set that it is from.

        Raises:
            DataError: as `Desk.vote`; and if the set is gone.
        """
        self.desk.vote(seat, who, sent)
        done = self.desk.round(seat)
        return self.find(done.asked.source.question_set if done else None)

    def board(self, seat: str, problem: str = "") -> str:
        """Return the two panels as HTML: empty until both have ended, then with the row of verdicts."""
        done = self.desk.round(seat)
        if done is None:
            return problem_html(problem) if problem else ""
        panels = done.panels
        if not done.over:
            panels = tuple(replace(panel, state="answering", text="") for panel in panels)
        ballot = done.ballot if done.over and done.kept is not None else None
        return panels_html(panels, ballot=ballot, vote=done.vote, blind=True, problem=problem)

"""The page of question sets: experts work through one, blind, question after question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.web.ballot import VOTES
from apps.web.desk import LOST, Desk
from apps.web.handlers import CLOSED, seat_of
from apps.web.sets.course import Course
from apps.web.sets.parts import NONE, begin_html, end_html, progress_html, question_html
from apps.web.visitors import Visitor
from studio.errors import TriptychError
from studio.question_sets import QuestionSet

TITLE, PLACE, ROLE = "Question sets", 20, "expert"
_UP = (
    "element.addEventListener('click', (event) => {"
    " if (event.target.closest('.tp-vote') && window.innerWidth < 900)"
    " document.querySelector('#tp-place')?.scrollIntoView({behavior: 'smooth'}); });"
)


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Questions(desk)


class _Questions:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk, self.course = desk, Course(desk)
        plain: dict[str, Any] = {"apply_default_css": False}
        with gr.Row(elem_id="tp-main"):
            with gr.Column(elem_id="tp-question", min_width=300):
                self.chosen = gr.Radio([], label="Question set", visible=False, elem_id="tp-sets")
                self.progress = gr.HTML(elem_id="tp-place", **plain)
                self.begin = gr.Button("Begin", variant="primary", visible=False, elem_id="tp-begin")
                self.asked = gr.HTML(elem_id="tp-asked", **plain)
            with gr.Column(elem_id="tp-answers", min_width=300):
                self.board = gr.HTML(js_on_load=VOTES + _UP, elem_id="tp-board", **plain)
        self._connect()

    def _connect(self) -> None:
        shown = [self.progress, self.begin, self.asked, self.board]
        context = gr.context.Context.root_block
        assert context is not None
        context.load(self.open, None, [self.chosen, *shown], queue=False, **CLOSED)
        self.chosen.input(self.choose, self.chosen, shown, preprocess=False, queue=False, **CLOSED)
        self.begin.click(self.ask, self.chosen, shown, preprocess=False, trigger_mode="once", **CLOSED)
        self.board.select(self.vote, None, shown, trigger_mode="once", **CLOSED)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the sets, the first that is not finished chosen."""
        _, who = self._visitor(request)
        sets = self.course.sets()
        if not sets:
            return gr.update(visible=False), "", gr.update(visible=False), "", NONE
        first = next((one for one in sets if self.course.place(one, who).next), sets[0])
        choices = [(one.title, one.hash) for one in sets]
        known = gr.update(choices=choices, value=first.hash, visible=len(sets) > 1)
        return known, *self._start(first, who)

    def choose(self, chosen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Show another set's place."""
        seat, who = self._visitor(request)
        try:
            return self._start(self.course.find(chosen), who)
        except TriptychError as error:
            return self._problem(seat, error)

    def ask(self, chosen: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Ask the next question of the chosen set."""
        seat, who = self._visitor(request)
        try:
            yield from self._next(seat, who, self.course.find(chosen))
        except TriptychError as error:
            yield self._problem(seat, error)

    def vote(self, event: gr.EventData, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Keep the visitor's verdict and go on with the set."""
        seat, who = self._visitor(request)
        try:
            one = self.course.vote(seat, who, event._data)
        except TriptychError as error:
            yield self._problem(seat, error)
            return
        try:
            yield from self._next(seat, who, one)
        except TriptychError as error:  # the verdict is kept, and the way goes on from here
            progress, button, _, _ = self._start(one, who)
            yield progress, button, gr.skip(), self.course.board(seat, str(error))

    def _next(self, seat: str, who: Visitor, one: QuestionSet) -> Iterator[tuple[Any, ...]]:
        asked = self.course.ask(seat, who, one)
        if asked is None:
            yield self._start(one, who)
            return
        progress, hidden = progress_html(one, self.course.place(one, who)), gr.update(visible=False)
        yield progress, hidden, question_html(asked.question), self.course.board(seat)
        for _ in asked.watch():
            if self.desk.round(seat) is not asked:
                return
        lost = asked.kept is None
        button = gr.update(value="Try again", visible=True) if lost else gr.skip()
        yield gr.skip(), button, gr.skip(), self.course.board(seat, LOST if lost else "")

    def _start(self, one: QuestionSet, who: Visitor) -> tuple[Any, ...]:
        where = self.course.place(one, who)
        button = gr.update(value="Go on" if where.done else "Begin", visible=where.next is not None)
        words = begin_html(one, where) if where.next else end_html(one, where)
        return progress_html(one, where), button, "", words

    def _problem(self, seat: str, error: TriptychError) -> tuple[Any, ...]:
        return gr.skip(), gr.skip(), gr.skip(), self.course.board(seat, str(error))

    def _visitor(self, request: gr.Request) -> tuple[str, Visitor]:
        """Return the key of the visitor's page and who it is, or refuse."""
        return seat_of(self.desk, request, ROLE)

"""The page of question sets: experts work through one, blind, question after question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.sets.course import Course
from apps.web.sets.parts import NONE, begin_html, end_html, progress_html, question_html
from apps.web.visitors import Visitor
from studio.errors import TriptychError
from studio.question_sets import QuestionSet

TITLE, PLACE, ROLE = "Question sets", 20, "expert"
_VOTES = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('.tp-vote');"
    " const asked = element.querySelector('.tp-course')?.dataset.asked;"
    " if (!button || button.disabled) return;"
    " trigger('select', {vote: button.dataset.vote, asked});"
    " if (window.innerWidth < 900) document.querySelector('#tp-place')?.scrollIntoView({behavior: 'smooth'});"
    "});"
)
_CLOSED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    QuestionsPage(desk)


class QuestionsPage:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page and connect its handlers."""
        self.desk, self.course = desk, Course(desk)
        with gr.Row(elem_id="tp-main"):
            with gr.Column(elem_id="tp-question", min_width=300):
                self.chosen = gr.Radio([], label="Question set", visible=False, elem_id="tp-sets")
                self.progress = gr.HTML(apply_default_css=False, elem_id="tp-place")
                self.begin = gr.Button("Begin", variant="primary", visible=False, elem_id="tp-begin")
                self.asked = gr.HTML(apply_default_css=False, elem_id="tp-asked")
            with gr.Column(elem_id="tp-answers", min_width=300):
                self.board = gr.HTML(apply_default_css=False, js_on_load=_VOTES, elem_id="tp-board")
        shown = [self.progress, self.begin, self.asked, self.board]
        here = gr.context.Context.root_block
        assert here is not None
        here.load(self.open, None, [self.chosen, *shown], queue=False, **_CLOSED)
        self.chosen.input(self.choose, self.chosen, shown, preprocess=False, queue=False, **_CLOSED)
        self.begin.click(self.ask, self.chosen, shown, preprocess=False, trigger_mode="once", **_CLOSED)
        self.board.select(self.vote, None, shown, trigger_mode="once", **_CLOSED)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the sets, the first that is not finished chosen."""
        _, who = self._visitor(request)
        sets = self.course.sets()
        if not sets:
            return gr.update(visible=False), "", gr.update(visible=False), "", NONE
        places = {one.hash: self.course.place(one, who) for one in sets}
        first = next((one for one in sets if places[one.hash].next), sets[0])
        choices = [(one.title, one.hash) for one in sets]
        return (
            gr.update(choices=choices, value=first.hash, visible=len(sets) > 1),
            *self._start(first, who),
        )

    def choose(self, chosen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Show another set's place."""
        session, who = self._visitor(request)
        try:
            one = self.course.find(chosen)
        except TriptychError as error:
            return self._problem(session, str(error))
        return self._start(one, who)

    def ask(self, chosen: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Ask the next question of the chosen set."""
        session, who = self._visitor(request)
        try:
            one = self.course.find(chosen)
        except TriptychError as error:
            yield self._problem(session, str(error))
            return
        yield from self._next(session, who, one)

    def vote(self, event: gr.EventData, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Keep the visitor's verdict and go on with the set."""
        session, who = self._visitor(request)
        told = event._data if isinstance(event._data, dict) else {}
        try:
            one = self.course.vote(session, who, str(told.get("vote")), str(told.get("asked")))
        except TriptychError as error:
            yield self._problem(session, str(error))
            return
        yield from self._next(session, who, one)

    def _next(self, session: str, who: Visitor, one: QuestionSet) -> Iterator[tuple[Any, ...]]:
        asked = self.course.ask(session, who, one)
        if asked is None:
            yield self._start(one, who)
            return
        progress = progress_html(one, self.course.place(one, who))
        hidden = gr.update(visible=False)
        yield progress, hidden, question_html(asked.question), self.course.board(session)
        for _ in asked.watch():
            pass
        self.course.ready(session)
        yield gr.skip(), gr.skip(), gr.skip(), self.course.board(session)

    def _start(self, one: QuestionSet, who: Visitor) -> tuple[Any, ...]:
        where = self.course.place(one, who)
        button = gr.update(value="Go on" if where.done else "Begin", visible=where.next is not None)
        words = begin_html(one, where) if where.next else end_html(one, where)
        return progress_html(one, where), button, "", words

    def _problem(self, session: str, sentence: str) -> tuple[Any, ...]:
        return gr.skip(), gr.skip(), gr.skip(), self.course.board(session, sentence)

    def _visitor(self, request: gr.Request) -> tuple[str, Visitor]:
        """Return the visitor's session and who it is, or refuse."""
        try:
            return request.session_hash or "", self.desk.admit(request, ROLE)
        except TriptychError as error:
            raise gr.Error(str(error), print_exception=False) from None

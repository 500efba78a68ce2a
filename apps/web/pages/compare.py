"""The Compare page: ask with picture, sound and text, read the answers side by side, say which is best.

Engineers choose the variants, and may hide their names; for experts, and in a blind app, variants are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.ballot import VOTES
from apps.web.desk import MOST, Desk, first_choice, why_not_further
from apps.web.draw import shuffled
from apps.web.examples import Example
from apps.web.faults import REPORTS
from apps.web.handlers import CLOSED, seat_of, uploaded
from apps.web.pages import _compare_explain as explain
from apps.web.pages import _compare_faults as faults
from apps.web.pages import _compare_parts as parts
from apps.web.pages._form_editor import FormEditor
from apps.web.panels import LETTERS
from apps.web.question import read_follow_up, read_question
from apps.web.rounds import Round, Source
from apps.web.visitors import Visitor
from studio.errors import TriptychError

TITLE, PLACE, ROLE = "Compare", 10, "expert"


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Compare(desk)


class _Compare:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk = desk
        with gr.Row(elem_id="tp-main"):
            with gr.Column(elem_id="tp-question", min_width=300):
                self._question()
            with gr.Column(elem_id="tp-answers", min_width=300):
                self._answers()
        self._connect()

    def _question(self) -> None:
        gr.HTML("<h2>Question</h2>", apply_default_css=False, elem_classes="tp-heading")
        self.example = gr.State(None)
        self.turns = gr.State({})
        self.domains: list[gr.Button] = []
        if self.desk.examples.domains:
            with gr.Row(elem_id="tp-examples"):
                gr.HTML("<span>Try an example</span>", apply_default_css=False, elem_classes="tp-lead")
                for domain in self.desk.examples.domains:
                    self.domains.append(gr.Button(domain, size="sm", min_width=0, elem_classes="tp-chip"))
        with gr.Column(elem_id="tp-media", min_width=0):
            self.picture, self.sound = parts.picture(), parts.sound()
        self.text = parts.text()
        with gr.Row(elem_id="tp-buttons"):
            self.send = gr.Button("Send", variant="primary", elem_id="tp-send", min_width=0)
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="tp-stop", min_width=0)
            self.again = gr.Button("Retry", interactive=False, elem_id="tp-again", min_width=0)
            self.clear = gr.Button("Clear", elem_id="tp-clear", min_width=0)
        self.decoding = parts.decoding()

    def _answers(self) -> None:
        self.chosen = parts.variants(len(self.desk.labels))
        with gr.Row(elem_id="tp-choice"):
            self.count = gr.Radio(
                [2, 3, 4], value=2, label="Answers side by side", visible=False, elem_id="tp-count"
            )
            self.blind = gr.Checkbox(
                label="Hide the names until the verdict", visible=False, elem_id="tp-hide"
            )
        self.board = gr.HTML("", apply_default_css=False, js_on_load=VOTES + REPORTS, elem_id="tp-board")
        with gr.Row(visible=False, elem_id="tp-follow") as self.row:
            self.further = parts.further()
            self.go_on = gr.Button("Ask further", elem_id="tp-further", min_width=0, scale=0)
        explain.lay_out(self.desk, ROLE)
        self.editor = FormEditor(self.desk)

    def _connect(self) -> None:
        changed = [self.board, self.send, self.stop, self.again, self.chosen, self.row]
        asked = [self.picture, self.sound, self.text, self.example]
        whom = [self.chosen, self.blind, self.count]
        once: dict[str, Any] = {"preprocess": False, "trigger_mode": "once", **CLOSED}
        gr.on([self.send.click, self.text.submit], self.ask, [*asked, *whom, *self.decoding], changed, **once)
        self.again.click(self.ask_again, [*whom, *self.decoding], changed, **once)
        gr.on(
            [self.go_on.click, self.further.submit],
            self.ask_further,
            [self.further, *self.decoding],
            [*changed, self.further],
            **once,
        )
        self.stop.click(self.halt, queue=False, **CLOSED)
        gr.on(
            [self.chosen.input, self.blind.input, self.count.input],
            self.choose,
            whom,
            [self.chosen, self.board],
            queue=False,
            preprocess=False,
            trigger_mode="always_last",
            **CLOSED,
        )
        self.board.select(self.vote, None, [self.board, self.row], queue=False, **CLOSED)
        faults.connect(self.desk, self.board, ROLE)
        self.clear.click(self.empty, None, asked, queue=False, **CLOSED)
        for domain, button in zip(self.desk.examples.domains, self.domains, strict=True):
            button.click(self._shower(domain), self.turns, [*asked, self.turns], queue=False, **CLOSED)
        shown = [self.chosen, self.blind, self.count, self.board, *self.editor.components]
        gr.on(None, self.arrive, None, shown, queue=False, **CLOSED)

    def arrive(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the page for whoever opened it: what is sent to everyone names no variant."""
        seat, who = self._visitor(request)
        labels, engineer = list(self.desk.labels), who.may("engineer")
        first = first_choice(labels)
        titles = first if engineer and not self.desk.blind else list(LETTERS[:2])
        return (
            gr.update(choices=labels, value=first, visible=True) if engineer else gr.skip(),
            gr.update(visible=True, value=self.desk.blind) if engineer else gr.skip(),
            gr.skip() if engineer or len(labels) < 3 else gr.update(visible=True),
            self.desk.board(seat, titles),
            *self.editor.updates(who),
        )

    def ask(
        self,
        picture: Any,
        sound: Any,
        text: Any,
        example: Example | None,
        chosen: Any,
        blind: Any,
        count: Any,
        tokens: Any,
        temperature: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Send the question on the page to the variants, and yield the board as they answer."""
        seat, who = self._visitor(request)
        try:
            question = read_question(picture, sound, text, Path(self.picture.GRADIO_CACHE))
            source = Source()
            if example is not None and example.question == question:
                source = Source(domain=example.domain, expected=example.expected)
            names, hide = self._whom(who, chosen, blind, count)
            decoding = parts.read_decoding(tokens, temperature, seed)
            opened = self.desk.open(seat, who, question, names, decoding, blind=hide, source=source)
        except TriptychError as error:
            yield self._problem(seat, self._titles(who, chosen, blind, count), str(error))
            return
        yield from self._follow(seat, opened)

    def ask_again(
        self,
        chosen: Any,
        blind: Any,
        count: Any,
        tokens: Any,
        temperature: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Ask the last question once more, of the variants that are chosen now."""
        seat, who = self._visitor(request)
        last = self.desk.round(seat)
        try:
            decoding = parts.read_decoding(tokens, temperature, seed)
            names, hide = self._whom(who, chosen, blind, count)
            if last is not None and not who.may("engineer") and last.vote is None:
                names, hide = list(last.asked.names.values()), last.asked.blind
            opened = self.desk.again(seat, who, names, decoding, blind=hide)
        except TriptychError as error:
            yield self._problem(seat, self._titles(who, chosen, blind, count), str(error))
            return
        yield from self._follow(seat, opened)

    def ask_further(
        self, text: Any, tokens: Any, temperature: Any, seed: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Ask every variant further, each after its own answers, about the same picture and recording."""
        seat, who = self._visitor(request)
        try:
            decoding = parts.read_decoding(tokens, temperature, seed)
            opened = self.desk.follow(seat, who, read_follow_up(text), decoding)
        except TriptychError as error:
            yield (*self._problem(seat, None, str(error)), gr.skip())
            return
        for place, changes in enumerate(self._follow(seat, opened)):
            yield (*changes, gr.skip() if place else "")

    def halt(self, request: gr.Request) -> None:
        """Stop the visitor's running round."""
        seat, _ = self._visitor(request)
        running = self.desk.round(seat)
        if running is not None:
            running.stop()

    def choose(self, chosen: Any, blind: Any, count: Any, request: gr.Request) -> tuple[Any, Any]:
        """Show a panel for each variant that is chosen now; a fifth one is not taken."""
        seat, who = self._visitor(request)
        done = self.desk.round(seat)
        if done is not None and done.asked.blind and self._hides(who, blind):
            return gr.skip(), gr.skip()  # what it shows has still to be judged
        titles = self._titles(who, chosen, blind, count)
        if not isinstance(chosen, list) or len(chosen) <= MOST:
            # The field keeps its value: another click may be on its way.
            return gr.skip(), self.desk.board(seat, titles)
        problem = f"At most {MOST} variants fit side by side."
        return gr.update(value=chosen[:MOST]), self.desk.board(seat, titles, problem)

    def vote(self, event: gr.EventData, request: gr.Request) -> tuple[str, Any]:
        """Keep the visitor's verdict."""
        seat, who = self._visitor(request)
        try:
            self.desk.vote(seat, who, event._data)
        except TriptychError as error:
            return self.desk.board(seat, problem=str(error)), gr.skip()
        return self.desk.board(seat), gr.update(visible=self._may_go_on(seat))

    def empty(self, request: gr.Request) -> tuple[None, None, str, None]:
        """Empty the question's fields."""
        self._visitor(request)
        return None, None, "", None

    def _shower(self, domain: str) -> Callable[..., tuple[Any, ...]]:
        def show(turns: dict[str, int], request: gr.Request) -> tuple[Any, ...]:
            """Fill the fields with the domain's next example."""
            self._visitor(request)
            turn = turns.get(domain, 0)
            example = self.desk.examples.pick(domain, turn)
            asked = example.question
            picture, sound = uploaded(asked.picture, self.picture), uploaded(asked.sound, self.picture)
            shown = replace(example, question=replace(asked, picture=picture, sound=sound))
            return picture, sound, asked.text, shown, {**turns, domain: turn + 1}

        return show

    def _hides(self, who: Visitor, blind: Any) -> bool:
        """Return whether a visitor's next round hides the names: engineers say so themselves."""
        return blind is True if who.may("engineer") else self.desk.blind

    def _whom(self, who: Visitor, chosen: Any, blind: Any, count: Any) -> tuple[list[str], bool]:
        """Return the names that a visitor's next round asks, as shown, and whether it hides them."""
        hide = self._hides(who, blind)
        if not who.may("engineer"):
            return self.desk.drawn(count), hide
        names = self.desk.chosen(chosen)
        return (shuffled(names) if hide else names), hide

    def _titles(self, who: Visitor, chosen: Any, blind: Any, count: Any) -> list[str]:
        """Return the titles of the panels before there is a round."""
        if not who.may("engineer"):
            return list(LETTERS[: count if count in (2, 3, 4) else 2])
        known = self.desk.labels
        listed = chosen if isinstance(chosen, list) else []
        titles = [label for label in map(str, listed) if label in known][:MOST]
        return list(LETTERS[: len(titles)]) if self._hides(who, blind) else titles

    def _follow(self, seat: str, opened: Round) -> Iterator[tuple[Any, ...]]:
        yield (self.desk.board(seat), *_buttons(running=True), gr.update(visible=False))
        for _ in opened.watch():
            if self.desk.round(seat) is not opened:
                return
            yield (self.desk.board(seat), *[gr.skip()] * 5)
        further = gr.update(visible=self._may_go_on(seat))
        yield (self.desk.board(seat), *_buttons(running=False), further)

    def _may_go_on(self, seat: str) -> bool:
        done = self.desk.round(seat)
        return done is not None and done.over and not why_not_further(done)

    def _problem(self, seat: str, titles: Any, sentence: str) -> tuple[Any, ...]:
        done = self.desk.round(seat)
        if done is not None and done.asked.blind:
            titles = None  # what it shows has still to be judged
        return self.desk.board(seat, titles, sentence), *[gr.skip()] * 5

    def _visitor(self, request: gr.Request) -> tuple[str, Visitor]:
        """Return the visitor's seat and who it is, or refuse."""
        return seat_of(self.desk, request, ROLE)


def _buttons(running: bool) -> tuple[Any, Any, Any, Any]:
    """Return the updates of Send, Stop, Retry and the choice of variants."""
    return (
        gr.update(visible=not running),
        gr.update(visible=running),
        gr.update(interactive=not running),
        gr.update(interactive=not running),
    )

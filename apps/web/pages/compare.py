"""The Compare page: choose variants, ask with picture, sound and text, read the answers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from apps.web.desk import MOST, Desk, first_choice
from apps.web.examples import Example
from apps.web.question import MAX_CHARACTERS, read_question
from apps.web.rounds import Decoding, Round
from apps.web.visitors import Visitor
from studio.errors import DataError, TriptychError

TITLE, PLACE, ROLE = "Compare", 10, "expert"
_FEW = 12
"""Up to so many variants are shown as chips, more in a list that can be searched."""
LONGEST, HOTTEST = 256, 1.5
_VOTES = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('.tp-vote');"
    " if (button && !button.disabled) trigger('select', {vote: button.dataset.vote}); });"
)
_CLOSED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


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
        self.picture = gr.Image(
            label="Picture",
            type="filepath",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            height=190,
            buttons=["fullscreen"],
            placeholder="Drop a picture, or click to choose one",
            alt_text="The picture of the question",
            elem_id="tp-picture",
        )
        self.sound = gr.Audio(
            label="Recording",
            type="filepath",
            sources=["upload", "microphone"],
            buttons=[],
            waveform_options=gr.WaveformOptions(waveform_color="#a79d90", waveform_progress_color="#2a7b7f"),
            elem_id="tp-sound",
        )
        self.text = gr.Textbox(
            label="Text",
            placeholder="Ask about the picture or the recording",
            lines=1,
            max_lines=6,
            max_length=MAX_CHARACTERS,
            elem_id="tp-text",
        )
        with gr.Row(elem_id="tp-buttons"):
            self.send = gr.Button("Send", variant="primary", elem_id="tp-send", min_width=0)
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="tp-stop", min_width=0)
            self.again = gr.Button("Retry", interactive=False, elem_id="tp-again", min_width=0)
            self.clear = gr.Button("Clear", elem_id="tp-clear", min_width=0)
        with gr.Accordion("Decoding, the same for all", open=False, elem_id="tp-decoding"):
            self.length = gr.Slider(8, LONGEST, value=48, step=8, label="Longest answer, in tokens")
            self.temperature = gr.Slider(
                0,
                HOTTEST,
                value=0,
                step=0.1,
                label="Temperature",
                info="0 is exact: the same answer every time",
            )
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed")

    def _answers(self) -> None:
        names = list(self.desk.labels)
        kind = gr.CheckboxGroup if len(names) <= _FEW else gr.Dropdown
        extra: dict[str, Any] = {} if kind is gr.CheckboxGroup else {"multiselect": True, "max_choices": MOST}
        self.chosen = kind(
            names,
            value=first_choice(list(self.desk.labels)),
            label=f"Variants, 2 to {MOST}",
            elem_id="tp-variants",
            **extra,
        )
        self.board = gr.HTML(
            self.desk.board("", first_choice(list(self.desk.labels))),
            apply_default_css=False,
            js_on_load=_VOTES,
            elem_id="tp-board",
        )

    def _connect(self) -> None:
        buttons = [self.send, self.stop, self.again, self.chosen]
        decoding = [self.length, self.temperature, self.seed]
        asked = [self.picture, self.sound, self.text, self.example]
        gr.on(
            [self.send.click, self.text.submit],
            self.ask,
            [*asked, self.chosen, *decoding],
            [self.board, *buttons],
            preprocess=False,
            trigger_mode="once",
            **_CLOSED,
        )
        self.again.click(
            self.ask_again, [self.chosen, *decoding], [self.board, *buttons], trigger_mode="once", **_CLOSED
        )
        self.stop.click(self.halt, queue=False, **_CLOSED)
        self.chosen.input(
            self.choose,
            self.chosen,
            [self.chosen, self.board],
            queue=False,
            trigger_mode="always_last",
            **_CLOSED,
        )
        self.board.select(self.vote, None, self.board, queue=False, **_CLOSED)
        self.clear.click(self.empty, None, asked, queue=False, **_CLOSED)
        for domain, button in zip(self.desk.examples.domains, self.domains, strict=True):
            button.click(self._shower(domain), self.turns, [*asked, self.turns], queue=False, **_CLOSED)

    def ask(
        self,
        picture: Any,
        sound: Any,
        text: Any,
        example: Example | None,
        chosen: Any,
        tokens: Any,
        temperature: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Send the question on the page to the chosen variants, and yield the board as they answer."""
        session, who = self._visitor(request)
        try:
            question = read_question(picture, sound, text, Path(self.picture.GRADIO_CACHE))
            if example is not None and example.question != question:
                example = None
            expected = example.expected if example else None
            opened = self.desk.open(
                session, who, question, chosen, _decoding(tokens, temperature, seed), expected
            )
        except TriptychError as error:
            yield self._problem(session, chosen, str(error))
            return
        yield from self._follow(session, opened)

    def ask_again(
        self, chosen: list[str], tokens: Any, temperature: Any, seed: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Ask the last question once more, of the variants that are chosen now."""
        session, who = self._visitor(request)
        last = self.desk.round(session)
        if last is None:
            yield self._problem(session, chosen, "There is no question to repeat; send one first.")
            return
        try:
            decoding = _decoding(tokens, temperature, seed)
            opened = self.desk.open(session, who, last.question, chosen, decoding, last.expected)
        except TriptychError as error:
            yield self._problem(session, chosen, str(error))
            return
        yield from self._follow(session, opened)

    def halt(self, request: gr.Request) -> None:
        """Stop the visitor's running round."""
        session, _ = self._visitor(request)
        running = self.desk.round(session)
        if running is not None:
            running.stop()

    def choose(self, chosen: list[str], request: gr.Request) -> tuple[Any, str]:
        """Show a panel for each variant that is chosen now; a fifth one is not taken."""
        session, _ = self._visitor(request)
        if len(chosen) <= MOST:  # the field keeps its value: another click may be on its way
            return gr.skip(), self.desk.board(session, chosen)
        chosen = chosen[:MOST]
        problem = f"At most {MOST} variants fit side by side."
        return gr.update(value=chosen), self.desk.board(session, chosen, problem)

    def vote(self, event: gr.EventData, request: gr.Request) -> str:
        """Keep the visitor's verdict."""
        session, who = self._visitor(request)
        try:
            self.desk.vote(session, who, str((event._data or {}).get("vote")))
        except TriptychError as error:
            return self.desk.board(session, problem=str(error))
        return self.desk.board(session)

    def empty(self, request: gr.Request) -> tuple[None, None, str, None]:
        """Empty the question's fields."""
        self._visitor(request)
        return None, None, "", None

    def _shower(self, domain: str) -> Any:
        def show(turns: dict[str, int], request: gr.Request) -> tuple[Any, ...]:
            """Fill the fields with the domain's next example."""
            self._visitor(request)
            turn = turns.get(domain, 0)
            example = self.desk.examples.pick(domain, turn)
            asked = example.question
            picture, sound = self._upload(asked.picture), self._upload(asked.sound)
            shown = replace(example, question=replace(asked, picture=picture, sound=sound))
            return picture, sound, asked.text, shown, {**turns, domain: turn + 1}

        return show

    def _upload(self, path: Path | None) -> Path | None:
        """Return a copy of a file among the uploads, where the page may show it."""
        return Path(save_file_to_cache(path, self.picture.GRADIO_CACHE)) if path else None

    def _follow(self, session: str, opened: Round) -> Iterator[tuple[Any, ...]]:
        yield (self.desk.board(session), *_buttons(running=True))
        for _ in opened.watch():
            if self.desk.round(session) is not opened:
                return
            yield (self.desk.board(session), *[gr.skip()] * 4)
        yield (self.desk.board(session), *_buttons(running=False))

    def _problem(self, session: str, chosen: Any, sentence: str) -> tuple[Any, ...]:
        return self.desk.board(session, chosen, sentence), *[gr.skip()] * 4

    def _visitor(self, request: gr.Request) -> tuple[str, Visitor]:
        """Return the visitor's session and who it is, or refuse."""
        try:
            return request.session_hash or "", self.desk.admit(request, ROLE)
        except TriptychError as error:
            raise gr.Error(str(error), print_exception=False) from None


def _buttons(running: bool) -> tuple[Any, Any, Any, Any]:
    """Return the updates of Send, Stop, Retry and the choice of variants."""
    return (
        gr.update(visible=not running),
        gr.update(visible=running),
        gr.update(interactive=not running),
        gr.update(interactive=not running),
    )


def _decoding(tokens: Any, temperature: Any, seed: Any) -> Decoding:
    try:
        made = Decoding(
            max_new_tokens=int(tokens), temperature=round(float(temperature), 3), seed=int(seed or 0)
        )
    except (TypeError, ValueError):
        raise DataError("The decoding settings must be numbers.") from None
    if not (1 <= made.max_new_tokens <= LONGEST and 0 <= made.temperature <= HOTTEST and made.seed >= 0):
        raise DataError(
            f"Decoding allows 1 to {LONGEST} tokens, a temperature from 0 to {HOTTEST} and a seed from 0."
        )
    return made

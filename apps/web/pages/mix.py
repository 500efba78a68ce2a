"""The Mix page: weigh experts against each other by sliders, talk to the mix at once, and save it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.desk import MOST, Desk
from apps.web.handlers import CLOSED, seat_of, uploaded
from apps.web.mixing import shown
from apps.web.mixing.form import form_html
from apps.web.mixing.live import Mixes, Standing
from apps.web.mixing.recipe import Mix, first, read_mix
from apps.web.mixing.saving import Saving, checked, save_file
from apps.web.pages import _compare_parts as fields
from apps.web.panels import panels_html, problem_html
from apps.web.question import Question, read_question
from apps.web.rounds import Decoding, Panel, Round
from apps.web.visitors import Visitor
from mergers import MergeSpec
from studio.errors import DataError, TriptychError

TITLE, PLACE, ROLE = "Mix", 30, "engineer"
THE_MIX = "This mix"
_PARTS = Path(__file__).resolve().parent.parent / "mixing"
_KINDS = ("merge file", "adapter", "model")
_PLAIN: dict[str, Any] = {"apply_default_css": False}


class Unkept:
    """Keeps nothing: what a mix says while it is tried is nobody's verdict."""

    def question(self, asked: Round) -> int | None:
        """Keep no question."""
        return None

    def answer(self, asked: Round, panel: Panel) -> bool:
        """Keep no answer."""
        return True


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Mix(desk)


class _Mix:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk, self.mixes = desk, Mixes(desk)
        self.merging = threading.Lock()
        self.asked, self.turn = gr.State(None), gr.State(0)
        with gr.Row(elem_id="mx-main"):
            with gr.Column(elem_id="mx-left", min_width=300):
                gr.HTML("<h2>Mix</h2>", elem_classes="tp-heading", **_PLAIN)
                script = (_PARTS / "form.js").read_text(encoding="utf-8")
                self.form = gr.HTML("", js_on_load=script, elem_id="mx-form", **_PLAIN)
                self.told = gr.HTML("", elem_id="mx-told", **_PLAIN)
                self._saving()
            with gr.Column(elem_id="mx-right", min_width=300):
                self._question()
                self.board = gr.HTML(self._panels(()), elem_id="tp-board", **_PLAIN)
                gr.HTML("<h2>Where the experts disagree</h2>", elem_classes="tp-heading", **_PLAIN)
                self.measure = gr.Button("Measure interference", elem_id="mx-measure", min_width=0)
                self.maps = gr.HTML("", elem_id="mx-maps", **_PLAIN)
        self._connect()

    def _question(self) -> None:
        gr.HTML("<h2>Talk to it</h2>", elem_classes="tp-heading", **_PLAIN)
        with gr.Row(elem_id="mx-media"):
            self.picture = fields.picture(height=150, placeholder="Drop a picture here", min_width=200)
            self.sound = fields.sound(min_width=200)
        self.text = fields.text()
        self.beside = gr.Checkbox(False, label="Ask the experts as well", elem_id="mx-beside")
        with gr.Row(elem_id="tp-buttons"):
            self.send = gr.Button("Ask", variant="primary", elem_id="tp-send", min_width=0)
            self.stop = gr.Button("Stop", elem_id="mx-stop", min_width=0)
            self.example = gr.Button("Example", elem_id="mx-example", min_width=0)

    def _saving(self) -> None:
        gr.HTML("<h2>Save</h2>", elem_classes="tp-heading", **_PLAIN)
        with gr.Group(elem_id="mx-saving"):
            self.name = gr.Textbox(
                label="Name", placeholder="for example: tuesday-mix", max_length=60, elem_id="mx-name"
            )
            self.kind = gr.Radio(list(_KINDS), value=_KINDS[0], label="Save as", elem_id="mx-kind")
        self.save = gr.Button("Save", variant="primary", elem_id="mx-save")
        self.saved = gr.HTML("", elem_id="mx-saved", **_PLAIN)

    def _connect(self) -> None:
        here = gr.context.Context.root_block
        assert here is not None
        state = [self.form, self.told, self.board]
        here.load(self.begin_mix, None, state, **CLOSED)
        self.form.select(self.change_mix, [self.asked, self.beside], state, trigger_mode="multiple", **CLOSED)
        gr.on(
            [self.send.click, self.text.submit],
            self.ask_mix,
            [self.picture, self.sound, self.text, self.beside],
            [self.asked, self.told, self.board],
            preprocess=False,
            trigger_mode="multiple",
            **CLOSED,
        )
        self.stop.click(self.stop_mix, queue=False, **CLOSED)
        fields = [self.picture, self.sound, self.text, self.turn]
        self.example.click(self.example_for_mix, self.turn, fields, queue=False, **CLOSED)
        self.measure.click(self.measure_mix, None, self.maps, trigger_mode="once", **CLOSED)
        self.save.click(
            self.save_mix,
            [self.name, self.kind],
            self.saved,
            preprocess=False,
            trigger_mode="once",
            **CLOSED,
        )

    def begin_mix(self, request: gr.Request) -> tuple[Any, ...]:
        """Show all experts in equal parts, and let that mix answer."""
        session, _ = self._visitor(request)
        mix = first(list(self.mixes.experts))
        if not mix.experts:
            return form_html(mix, [], []), "", gr.skip()
        try:
            told = shown.told_html(self.mixes.make(session, mix), self._file(mix))
        except TriptychError as error:
            told = problem_html(str(error))
        return self._form(mix), told, gr.skip()

    def change_mix(
        self, asked: Question | None, beside: Any, event: gr.EventData, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Let the mix on the form answer from now on, the last question first."""
        session, who = self._visitor(request)
        before = self.mixes.wanted(session)
        form: Any = gr.skip()
        try:
            mix = read_mix((event._data or {}).get("mix"), list(self.mixes.experts))
            if before is None or (mix.method, mix.experts) != (before.method, before.experts):
                form = self._form(mix)
            made = self.mixes.make(session, mix)
        except TriptychError as error:
            yield form, problem_html(str(error)), gr.skip()
            return
        yield form, shown.told_html(made, self._file(mix)), gr.skip()
        if asked is not None:
            for board in self._answers(session, who, asked, made, beside is True):
                yield gr.skip(), gr.skip(), board

    def ask_mix(
        self, picture: Any, sound: Any, text: Any, beside: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Send the question on the page to the mix, and to the experts beside it if asked."""
        session, who = self._visitor(request)
        try:
            made = self.mixes.again(session)
            question = read_question(picture, sound, text, Path(self.picture.GRADIO_CACHE))
        except TriptychError as error:
            yield gr.skip(), gr.skip(), self._panels((), problem=str(error))
            return
        for board in self._answers(session, who, question, made, beside is True):
            yield question, gr.skip(), board

    def stop_mix(self, request: gr.Request) -> None:
        """Stop the visitor's running answers."""
        session, _ = self._visitor(request)
        running = self.desk.round(session)
        if running is not None:
            running.stop()

    def example_for_mix(self, turn: Any, request: gr.Request) -> tuple[Any, ...]:
        """Fill the fields with the next example of the domains in turn."""
        self._visitor(request)
        place, domains = turn if isinstance(turn, int) else 0, self.desk.examples.domains
        if not domains:
            return None, None, "", place
        example = self.desk.examples.pick(domains[place % len(domains)], place // len(domains))
        asked = example.question
        return (
            uploaded(asked.picture, self.picture),
            uploaded(asked.sound, self.picture),
            asked.text,
            place + 1,
        )

    def measure_mix(self, request: gr.Request) -> Iterator[str]:
        """Measure where the chosen experts pull apart, and show it as heat maps."""
        session, _ = self._visitor(request)
        yield shown.note_html("Measuring …")
        try:
            standing = self.mixes.again(session)
            spec = standing.mix.spec(self.mixes.experts, self.mixes.base)
            yield shown.maps_html(spec, standing.mix.experts)
        except TriptychError as error:
            yield problem_html(str(error))

    def save_mix(self, name: Any, kind: Any, request: gr.Request) -> Iterator[str]:
        """Save the visitor's mix as a merge file, or merge it into the runs' folder and let it join in."""
        session, _ = self._visitor(request)
        try:
            standing = self.mixes.again(session)
            if kind not in _KINDS:
                raise DataError(f"A mix is saved as {', '.join(_KINDS[:-1])} or {_KINDS[-1]}.")
            wanted, runs = checked(name), Path(self.desk.runs)
            output = "model" if kind == "model" else "adapter"
            spec = standing.mix.spec(self.mixes.experts, self.mixes.base, output)
            if kind == _KINDS[0]:
                yield shown.file_html(save_file(spec, runs, wanted))
                return
            folder = runs / wanted
            if folder.exists() or wanted in self.desk.engine.names:
                raise DataError(f"There is something named '{wanted}' already; choose another name.")
        except TriptychError as error:
            yield problem_html(str(error))
            return
        saving = Saving(spec, folder, self.merging, lambda made: self.desk.engine.add(wanted, made))  # type: ignore[attr-defined]
        for progress in saving.start().watch():
            yield shown.progress_html(progress, kind)

    def _answers(
        self, session: str, who: Visitor, question: Question, made: Standing, beside: bool
    ) -> Iterator[str]:
        names = {THE_MIX: made.name}
        if beside:
            every = self.desk.labels
            names |= {label: every[label] for label in made.mix.experts[: MOST - 1] if label in every}
        opened = self.desk.start(session, question, names, Decoding(), Unkept())
        for panels in opened.watch():
            if self.desk.round(session) is not opened:
                return
            yield self._panels(panels)

    def _panels(self, panels: Any, problem: str = "") -> str:
        return panels_html(panels or [Panel(name=THE_MIX)], problem=problem)

    def _form(self, mix: Mix) -> str:
        return form_html(mix, list(self.mixes.experts), self.mixes.towers(mix))

    def _file(self, mix: Mix) -> MergeSpec:
        return mix.spec(self.mixes.experts, self.mixes.base)

    def _visitor(self, request: gr.Request) -> tuple[str, Visitor]:
        """Return the seat of the visitor's page and who it is, or refuse."""
        return seat_of(self.desk, request, ROLE)

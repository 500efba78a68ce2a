"""The Train page: send a data set, see what it holds, train, watch, and find the expert in Compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.handlers import CLOSED
from apps.web.training import progress
from apps.web.training.acts import Acts
from apps.web.training.presets import PRESETS
from apps.web.training.trainings import LONGEST, least_role

TITLE, PLACE, ROLE = "Train", 50, least_role()
_HERE = Path(__file__).resolve().parent.parent / "training"
_EVERY = 2.0
"""Seconds between looks at a training."""
_PICK = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('.tp-job');"
    " if (button) trigger('select', {job: button.dataset.job}); });"
)
_LIVE = "element.setAttribute('aria-live', 'polite');"


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Train(desk)


class _Train:
    """The components of the page."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.taken, self.job, self.seen = gr.State(None), gr.State(""), gr.State({})
        with gr.Row(elem_id="tp-train"):
            with gr.Column(min_width=300):
                self._new()
            with gr.Column(min_width=300):
                self._watch()
        self.clock = gr.Timer(_EVERY, active=False)  # it runs for those who are let in
        self._connect(Acts(desk, ROLE))

    def _new(self) -> None:
        heading = {"apply_default_css": False, "elem_classes": "tp-heading"}
        gr.HTML("<h2>1. What it learns from</h2>", **heading)
        self.upload = gr.HTML(
            (_HERE / "upload.html").read_text(encoding="utf-8"),
            apply_default_css=False,
            js_on_load=(_HERE / "upload.js").read_text(encoding="utf-8"),
            elem_id="tp-upload",
        )
        self.known = gr.Dropdown([], value=None, label="Or a set that is here already", elem_id="tp-known")
        self.report = gr.HTML("", apply_default_css=False, js_on_load=_LIVE, elem_id="tp-report")
        gr.HTML("<h2>2. How it is trained</h2>", **heading)
        self.name = gr.Textbox(
            label="Name of the expert",
            placeholder="for example: Seams, January",
            max_length=LONGEST,
            elem_id="tp-name",
        )
        self.preset = gr.Radio(
            [(preset.told, key) for key, preset in PRESETS.items()],
            value="quick",
            label="Way to train",
            elem_id="tp-presets",
        )
        with gr.Accordion("More settings", open=False, elem_id="tp-more"):
            self.steps = gr.Number(0, precision=0, minimum=0, label="Steps at most; 0: as above")
            self.rate = gr.Number(0, minimum=0, label="Learning rate; 0: as above")
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed")
        self.begin = gr.Button("Start training", variant="primary", elem_id="tp-start")
        self.told = gr.HTML("", apply_default_css=False, js_on_load=_LIVE, elem_id="tp-start-told")

    def _watch(self) -> None:
        gr.HTML("<h2>Trainings</h2>", apply_default_css=False, elem_classes="tp-heading")
        bare: dict[str, Any] = {"apply_default_css": False}
        self.list = gr.HTML(progress.list_html([], ""), js_on_load=_PICK, elem_id="tp-jobs", **bare)
        self.status = gr.HTML("", elem_id="tp-status", **bare)
        with gr.Row(elem_id="tp-job-buttons"):
            self.stop = gr.Button("Stop", variant="stop", visible=False, min_width=0, elem_id="tp-job-stop")
            self.go_on = gr.Button("Go on", visible=False, min_width=0, elem_id="tp-job-resume")
            self.remove = gr.Button("Remove", visible=False, min_width=0, elem_id="tp-job-remove")
        self.end = gr.HTML("", js_on_load=_LIVE, elem_id="tp-end", **bare)
        self.curve = gr.HTML("", elem_id="tp-curve", **bare)
        with gr.Accordion(
            "The curve as a table", open=False, visible=False, elem_id="tp-figures"
        ) as self.figures:
            self.table = gr.HTML("", **bare)
        self.said = gr.HTML("", elem_id="tp-said", **bare)

    def _connect(self, acts: Acts) -> None:
        shown = [self.list, self.status, self.stop, self.go_on, self.remove, self.end, self.curve]
        shown += [self.figures, self.table, self.said, self.job, self.seen]
        looked = [self.report, self.taken, self.name, self.known]
        context = gr.context.Context.root_block
        assert context is not None
        context.load(acts.opened, None, [self.known, self.clock, *shown], **CLOSED)
        self.upload.select(acts.receive, None, looked, concurrency_limit=4, **CLOSED)
        self.known.input(acts.choose, self.known, looked, concurrency_limit=4, **CLOSED)
        self.begin.click(
            acts.start,
            [self.name, self.preset, self.taken, self.steps, self.rate, self.seed],
            [self.told, self.name, *shown],
            trigger_mode="once",
            **CLOSED,
        )
        self.list.select(acts.pick, None, shown, queue=False, **CLOSED)
        for button, act in ((self.stop, acts.halt), (self.go_on, acts.resume), (self.remove, acts.forget)):
            button.click(act, [self.job, self.seen], shown, queue=False, **CLOSED)
        self.clock.tick(acts.look, [self.job, self.seen], shown, queue=False, **CLOSED)

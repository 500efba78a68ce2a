"""The Train page: send a data set, see what it holds, train, watch, and find the expert in Compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.training import progress
from apps.web.training.presets import PRESETS
from apps.web.training.received import put_in_place
from apps.web.training.taking import Told, plain, problem, take
from apps.web.training.trainings import Trainings, least_role
from apps.web.visitors import Visitor
from studio.data.intake import Taken
from studio.errors import DataError, TriptychError
from studio.training.tracking import read_metrics

TITLE, PLACE, ROLE = "Train", 50, least_role()
_HERE = Path(__file__).resolve().parent.parent / "training"
_CLOSED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
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
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk, self.trainings = desk, Trainings(desk)
        self.taken, self.job, self.seen = gr.State(None), gr.State(""), gr.State({})
        with gr.Row(elem_id="tp-train"):
            with gr.Column(min_width=300):
                self._new()
            with gr.Column(min_width=300):
                self._watch()
        self.clock = gr.Timer(_EVERY)
        self._connect()

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
            max_length=40,
            elem_id="tp-name",
        )
        self.preset = gr.Radio(
            [(preset.told, key) for key, preset in PRESETS.items()],
            value="quick",
            label="Way to train",
            elem_id="tp-presets",
        )
        with gr.Accordion("More settings", open=False, elem_id="tp-more"):
            self.steps = gr.Number(None, precision=0, minimum=0, label="Steps at most; empty: as above")
            self.rate = gr.Number(None, minimum=0, label="Learning rate; empty: as above")
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

    def _connect(self) -> None:
        shown = [self.list, self.status, self.stop, self.go_on, self.remove, self.end, self.curve]
        shown += [self.figures, self.table, self.said, self.job, self.seen]
        looked = [self.report, self.taken, self.name, self.known]
        context = gr.context.Context.root_block
        assert context is not None
        context.load(self.opened, None, [self.known, *shown], **_CLOSED)
        self.upload.select(self.receive, self.name, looked, concurrency_limit=4, **_CLOSED)
        self.known.input(self.choose, [self.known, self.name], looked, concurrency_limit=4, **_CLOSED)
        self.begin.click(
            self.start,
            [self.name, self.preset, self.taken, self.steps, self.rate, self.seed],
            [self.told, self.name, *shown],
            trigger_mode="once",
            **_CLOSED,
        )
        self.list.select(self.pick, None, shown, queue=False, **_CLOSED)
        for button, act in ((self.stop, self.halt), (self.go_on, self.resume), (self.remove, self.forget)):
            button.click(act, [self.job, self.seen], shown, queue=False, **_CLOSED)
        self.clock.tick(self.look, [self.job, self.seen], shown, queue=False, **_CLOSED)

    def opened(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the page when it is opened: the sets that are here, the trainings, the newest that runs."""
        who = self._visitor(request)
        jobs = self.trainings.seen_by(who)
        sets = list(self.trainings.known_to(who))
        running = [one.job.id for one in jobs if one.state.name == "running"]
        chosen = (running or [one.job.id for one in jobs] or [""])[0]
        return gr.update(choices=sets, value=None), *self._shown(who, chosen, {})

    def receive(self, name: Any, event: gr.EventData, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Take in the files that were sent, telling how far that is."""
        who = self._visitor(request)
        uploads = Path(self.known.GRADIO_CACHE)
        told = event._data if isinstance(event._data, dict) else {}

        def work(folder: Path, log: Told) -> tuple[str, Path]:
            return put_in_place(told, uploads, folder, log), folder

        yield from take(self.trainings, who, work, name)

    def choose(self, chosen: Any, name: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Take in a set that is here already."""
        who = self._visitor(request)
        known = self.trainings.known_to(who)

        def work(folder: Path, log: Told) -> tuple[str, Path]:
            if chosen not in known:
                raise DataError("that set is not here any more")
            return str(chosen), known[chosen]

        yield from take(self.trainings, who, work, name)

    def start(
        self, name: Any, preset: Any, taken: Any, steps: Any, rate: Any, seed: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        """Put a new training into the queue."""
        who = self._visitor(request)
        try:
            changes = _changes(steps, rate, seed)
            made = self.trainings.start(
                who, name, preset, taken if isinstance(taken, Taken) else None, changes
            )
        except (TriptychError, OSError) as error:
            return problem(plain(error)), gr.skip(), *[gr.skip()] * 12
        note = '<p class="tp-told">It is in the queue; this page may be closed meanwhile.</p>'
        return note, "", *self._shown(who, made.job.id, {})

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Show another training."""
        who = self._visitor(request)
        return self._shown(who, str((event._data or {}).get("job")), {})

    def look(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Show what has changed."""
        return self._shown(self._visitor(request), job, seen)

    def halt(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Stop the chosen training; it saves its state first."""
        return self._act(request, job, self.trainings.queue.stop)

    def resume(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Let the chosen training go on."""
        return self._act(request, job, self.trainings.queue.resume)

    def forget(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Take the chosen training off the list."""
        return self._act(request, job, self.trainings.queue.remove)

    def _act(self, request: gr.Request, job: Any, act: Any) -> tuple[Any, ...]:
        who = self._visitor(request)
        try:
            act(self.trainings.of(who, job).job.id)
            self.trainings.forget(str(job))
            self.trainings.queue.go_on()
        except (TriptychError, OSError) as error:
            raise gr.Error(plain(error), print_exception=False) from None
        return self._shown(who, job, {})

    def _shown(self, who: Visitor, job: Any, seen: Any) -> tuple[Any, ...]:
        """Return the updates of the right side; what is as it was is left alone, and keeps its focus."""
        jobs = self.trainings.seen_by(who)
        one = next((one for one in jobs if one.job.id == job), jobs[0] if jobs else None)
        rows = read_metrics(Path(one.job.output)) if one else []
        state = one.state.name if one else ""
        alive = state in ("running", "stopping", "waiting")
        apart = self.trainings.apart.get(one.job.id, "") if one else ""
        fresh = {
            "list": progress.list_html(jobs, one.job.id if one else ""),
            "status": progress.status_html(one, rows) if one else "",
            "stop": alive,
            "resume": state in ("stopped", "interrupted", "failed"),
            "remove": bool(one) and not (alive and state != "waiting"),
            "end": progress.end_html(one, rows, apart) if one and not alive else "",
            "curve": progress.curve_html(rows),
            "figures": bool(rows),
            "table": progress.table_html(rows) if rows else "",
            "said": progress.said_html(one) if one else "",
        }
        before = seen if isinstance(seen, dict) else {}
        updates = [
            gr.skip() if key in before and before[key] == value
            else gr.update(visible=value) if isinstance(value, bool)
            else value
            for key, value in fresh.items()
        ]  # fmt: skip
        return *updates, one.job.id if one else "", fresh

    def _visitor(self, request: gr.Request) -> Visitor:
        """Return who asks, or refuse."""
        try:
            return self.desk.admit(request, ROLE)
        except TriptychError as error:
            raise gr.Error(str(error), print_exception=False) from None


def _changes(steps: Any, rate: Any, seed: Any) -> dict[str, Any]:
    """Return the settings that a visitor has set by hand.

    Raises:
        DataError: if one is no number that a run could take.
    """
    try:
        found = {"max_steps": int(steps or 0), "lr": float(rate or 0), "seed": int(seed or 0)}
    except (TypeError, ValueError, OverflowError):
        raise DataError("Steps, learning rate and seed must be numbers.") from None
    if not (0 <= found["max_steps"] <= 1_000_000 and 0 <= found["lr"] <= 1 and 0 <= found["seed"] < 2**31):
        raise DataError("Allowed: 1 to 1,000,000 steps, a learning rate up to 1, a seed from 0.")
    return {key: value for key, value in found.items() if value}

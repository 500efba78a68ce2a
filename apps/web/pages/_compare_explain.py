"""The part of the Compare page that explains an answer, or why one variant gave it rather than another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

import apps.web.explaining
from apps.web.desk import Desk
from apps.web.explaining.show import ASK, explanation_html, running_html, stopped_html
from apps.web.explaining.work import Work, read_wish
from apps.web.handlers import CLOSED, seat_of
from apps.web.panels import LETTERS
from apps.web.rounds import Round
from studio.errors import TriptychError

_ASKED = Path(apps.web.explaining.__file__).parent / "asked.js"


def lay_out(desk: Desk, role: str) -> None:
    """Put the section into the current Blocks, if captum is installed; it shows once there are answers."""
    if find_spec("captum") is None:
        return
    script = _ASKED.read_text(encoding="utf-8")
    ask = gr.HTML(ASK, apply_default_css=False, js_on_load=script, elem_id="tp-explain")
    shown = gr.HTML("", apply_default_css=False, elem_id="tp-explained")
    one = threading.Lock()

    def why(event: gr.EventData, request: gr.Request) -> Iterator[str]:
        """Explain an answer of the visitor's finished round, and yield how far it is."""
        seat, who = seat_of(desk, request, role)
        done = desk.round(seat)
        try:
            wish = read_wish(event._data, done)
            desk.limits.spend("questions", who)
        except TriptychError as error:
            yield stopped_html(str(error))
            return
        assert done is not None
        title, other = _title(done, wish.place), "" if wish.against is None else _title(done, wish.against)
        while not one.acquire(timeout=1):
            if desk.round(seat) is not done:
                yield ""
                return
            yield running_html(title, 0, waiting=True)
        try:
            yield running_html(title, 0)
            work = Work(desk.engine, done, wish, turn=desk.turn, wanted=lambda: desk.round(seat) is done)
            for share in work.watch():
                yield running_html(title, share)
        finally:
            one.release()
        if work.found is None:
            yield stopped_html(work.problem)
        else:
            yield explanation_html(work.found, work.sample, title, other)

    ask.submit(why, None, shown, trigger_mode="once", **CLOSED)


def _title(done: Round, place: int) -> str:
    """Return what a sentence calls a panel's variant; a letter says no more than the board does."""
    name = done.panels[place].name
    return f"variant {name}" if name == LETTERS[place] else name

"""The page of results: what the votes say about the variants, how sure that is, and files to take away."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.handlers import CLOSED
from apps.web.panels import problem_html
from apps.web.results.counted import ALL, Choice, Counted
from apps.web.results.files import KINDS, write_file
from apps.web.results.parts import results_html
from apps.web.visitors import Refused
from studio.errors import TriptychError

TITLE, PLACE, ROLE = "Results", 40, "engineer"
_WORDS = {"csv": "CSV", "json": "JSON", "png": "Picture", "votes": "Votes as training data"}
_SAVE = (
    "(file) => { if (!file) return; const link = document.createElement('a');"
    " link.href = file.url; link.download = file.orig_name || ''; link.click(); }"
)


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Results(desk)


class _Results:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk, self.counted = desk, Counted(desk)
        with gr.Row(elem_id="tp-filters"):
            self.part = gr.Dropdown(
                [("all votes", ALL)],
                value=ALL,
                label="Count",
                filterable=False,
                min_width=180,
                elem_id="tp-part",
            )
            self.blind = gr.Checkbox(False, label="Blind verdicts only", min_width=160, elem_id="tp-blind")
            self.again = gr.Button("Refresh", min_width=0, elem_id="tp-refresh")
            self.buttons = {
                kind: gr.Button(words, min_width=0, size="sm", elem_classes="tp-take")
                for kind, words in _WORDS.items()
            }
        self.file = gr.DownloadButton("file", visible=False)
        self.told = gr.HTML("", apply_default_css=False, elem_id="tp-told")
        self.body = gr.HTML("", apply_default_css=False, elem_id="tp-found")
        self._connect()

    def _connect(self) -> None:
        context = gr.context.Context.root_block
        assert context is not None
        chosen, shown = [self.part, self.blind], [self.part, self.told, self.body]
        closed = {"preprocess": False, **CLOSED}
        context.load(self.show, chosen, shown, **closed)
        gr.on([self.again.click, self.part.input, self.blind.input], self.show, chosen, shown, **closed)
        for kind, button in self.buttons.items():
            button.click(self._taker(kind), chosen, [self.file, self.told], **closed).then(
                None, self.file, None, js=_SAVE, **CLOSED
            )

    def show(self, part: Any, blind: Any, request: gr.Request) -> tuple[Any, ...]:
        """Return the results of the chosen votes as they are now."""
        try:
            self.desk.admit(request, ROLE)
            parts = self.counted.parts()
            choice = self._choice(part, blind)
            body = results_html(self.counted.results(choice))
        except Refused as error:
            return gr.skip(), "", f'<div class="tp-card"><p role="alert">{escape(str(error))}</p></div>'
        except TriptychError as error:
            return gr.skip(), problem_html(str(error)), gr.skip()
        return gr.update(choices=parts, value=choice.part), "", body

    def _taker(self, kind: str) -> Any:
        def take(part: Any, blind: Any, request: gr.Request) -> tuple[Any, str]:
            """Write a file and send it."""
            try:
                self.desk.admit(request, ROLE)
                found = self.counted.results(self._choice(part, blind))
                folder = Path(self.file.GRADIO_CACHE)
                path = write_file(kind, found, self.desk.store, self.desk.media, folder)
            except TriptychError as error:
                return None, problem_html(str(error))
            return gr.update(value=str(path)), f'<p class="tp-live" role="status">{KINDS[kind]} is ready.</p>'

        return take

    def _choice(self, part: Any, blind: Any) -> Choice:
        return self.counted.choice(part, blind)

"""The page of reports: an evaluation of the runs' folder, with what merges kept, gained and lost."""

from __future__ import annotations

import secrets
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.handlers import CLOSED
from apps.web.panels import problem_html
from apps.web.reports.shelf import Shelf
from apps.web.visitors import Refused
from studio.errors import TriptychError
from studio.eval_report.page import STYLE, html_page, sections
from studio.eval_report.parts import headline
from studio.files import atomic_write

TITLE, PLACE, ROLE = "Report", 45, "engineer"
_NONE = (
    '<div class="tp-card"><h2>No evaluations yet</h2><p><code>triptych eval MODEL ... --data D --out '
    "runs/eval</code> writes one into the folder of the runs; its report appears here.</p></div>"
)
_SAVE = (
    "(file) => { if (!file) return; const link = document.createElement('a');"
    " link.href = file.url; link.download = file.orig_name || ''; link.click(); }"
)


def lay_out(desk: Desk) -> None:
    """Put the page into the current Blocks."""
    _Reports(desk)


class _Reports:
    """The components of the page; each handler admits the visitor before it does anything."""

    def __init__(self, desk: Desk) -> None:
        """Lay out the page inside the current Blocks and connect its handlers."""
        self.desk, self.shelf = desk, Shelf(desk)
        with gr.Row(elem_id="tp-report-choice"):
            self.name = gr.Dropdown(
                [], value=None, label="Evaluation", filterable=False, min_width=220, elem_id="tp-report-name"
            )
            self.again = gr.Button("Refresh", min_width=0, elem_id="tp-report-refresh")
            self.save = gr.Button("Save as a page", min_width=0, elem_id="tp-report-save")
        self.file = gr.DownloadButton("file", visible=False)
        self.told = gr.HTML("", apply_default_css=False, elem_id="tp-report-told")
        self.body = gr.HTML("", apply_default_css=False, elem_id="tp-report-body")
        self._connect()

    def _connect(self) -> None:
        context = gr.context.Context.root_block
        assert context is not None
        shown = [self.name, self.told, self.body]
        closed = {"preprocess": False, **CLOSED}
        context.load(self.look, self.name, shown, **closed)
        self.again.click(self.look, self.name, shown, **closed)
        self.name.input(self.show, self.name, [self.told, self.body], **closed)
        self.save.click(self.take, self.name, [self.file, self.told], **closed).then(
            None, self.file, None, js=_SAVE, **CLOSED
        )

    def look(self, name: Any, request: gr.Request) -> tuple[Any, ...]:
        """Return the evaluations that there are now, and the report on the chosen or the newest one."""
        try:
            self.desk.admit(request, ROLE)
            names = self.shelf.names()
        except Refused as error:
            return gr.skip(), "", f'<div class="tp-card"><p role="alert">{escape(str(error))}</p></div>'
        if not names:
            return gr.update(choices=[], value=None), "", _NONE
        chosen = name if name in names else names[0]
        return gr.update(choices=names, value=chosen), *self.show(chosen, request)

    def show(self, name: Any, request: gr.Request) -> tuple[Any, ...]:
        """Return the report on an evaluation."""
        try:
            self.desk.admit(request, ROLE)
            report = self.shelf.report(name)
            parts = "".join(sections(report).values())
        except TriptychError as error:
            return problem_html(str(error)), ""
        found = (headline(report) + parts).replace('class="maps"', 'class="tp-maps"')
        found = found.replace('class="charts"', 'class="tp-maps"')
        inside = f'<style>.tp-report{{{STYLE}}}</style><div class="tp-results tp-report">{found}</div>'
        return "", _whole(inside)

    def take(self, name: Any, request: gr.Request) -> tuple[Any, str]:
        """Write the report as a page of its own and send it."""
        try:
            self.desk.admit(request, ROLE)
            text = html_page(self.shelf.report(name), f"Report on {name}")
        except TriptychError as error:
            return None, problem_html(str(error))
        path = Path(self.file.GRADIO_CACHE) / secrets.token_hex(16) / "report.html"
        atomic_write(path, _whole(text))
        return gr.update(value=str(path)), '<p class="tp-live" role="status">report.html is ready.</p>'


def _whole(text: str) -> str:
    """Return a text that can be sent, whatever half characters stand in answers."""
    return text.encode("utf-8", "replace").decode()

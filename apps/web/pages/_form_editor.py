"""Where an administrator edits what a verdict may say: the reasons and the criteria."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from apps.web.desk import Desk
from apps.web.visitors import Visitor
from apps.web.voting import MOST_CRITERIA, MOST_REASONS, make_form
from studio.errors import TriptychError

_ROLE = "administrator"


class FormEditor:
    """Two lists and a button, shown to administrators only; ``components`` are filled by ``updates``."""

    def __init__(self, desk: Desk) -> None:
        """Put the editor into the current Blocks; it is not shown yet."""
        self.desk = desk
        with gr.Accordion("What a verdict may say", open=False, visible=False, elem_id="tp-form") as box:
            with gr.Row():
                reasons = gr.Textbox(label=f"Reasons, one a line, at most {MOST_REASONS}", lines=4)
                criteria = gr.Textbox(label=f"Criteria for points, at most {MOST_CRITERIA}", lines=4)
            with gr.Row():
                save = gr.Button("Save", min_width=120, scale=0)
                told = gr.HTML("", apply_default_css=False, elem_classes="tp-saved")
        self.components: list[Any] = [box, reasons, criteria]
        closed: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        save.click(self.save, [reasons, criteria], told, queue=False, preprocess=False, **closed)

    def updates(self, who: Visitor) -> tuple[Any, ...]:
        """Return what the components show to a visitor."""
        if not who.may(_ROLE):
            return (gr.skip(),) * 3
        form = self.desk.form
        return gr.update(visible=True), "\n".join(form.reasons), "\n".join(form.criteria)

    def save(self, reasons: Any, criteria: Any, request: gr.Request) -> str:
        """Keep the lists, and say so or what is wrong with them."""
        try:
            self.desk.admit(request, _ROLE)
            self.desk.edit_form(make_form(reasons, criteria))
        except TriptychError as error:
            return f'<p role="alert">{escape(str(error))}</p>'
        except OSError as error:
            return f'<p role="alert">The lists could not be kept ({escape(str(error.strerror))}).</p>'
        return '<p role="status">Saved; the next question offers them.</p>'

"""What the handlers of all pages share: how they are registered, who asks, and how a file gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from apps.web.desk import Desk
from apps.web.visitors import Visitor
from studio.errors import TriptychError

CLOSED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""How every handler is registered: not part of an interface for programs."""


def admitted(desk: Desk, request: gr.Request, role: str) -> Visitor:
    """Return who asks, or end the handler with the reason for refusing."""
    return seat_of(desk, request, role)[1]


def seat_of(desk: Desk, request: gr.Request, role: str) -> tuple[str, Visitor]:
    """Return the key of the visitor's page and who asks (`Desk.seat`), or end the handler as `admitted`."""
    try:
        return desk.seat(request, role)
    except TriptychError as error:
        raise gr.Error(str(error), print_exception=False) from None


def uploaded(path: Path | None, field: gr.Image | gr.Audio) -> Path | None:
    """Return a copy of a file among the uploads, where the page may show it."""
    return Path(save_file_to_cache(path, field.GRADIO_CACHE)) if path else None

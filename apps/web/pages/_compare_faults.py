"""The part of the Compare page that takes reports of wrong answers, from anybody who may compare."""

from __future__ import annotations

import gradio as gr

from apps.web.desk import Desk
from apps.web.faults import keep_report
from apps.web.handlers import CLOSED, seat_of
from studio.errors import TriptychError


def connect(desk: Desk, board: gr.HTML, role: str) -> None:
    """Let a board's ``submit`` event, which `apps.web.faults.REPORTS` triggers, keep a report."""

    def report(event: gr.EventData, request: gr.Request) -> str:
        """Keep the visitor's report."""
        seat, who = seat_of(desk, request, role)
        try:
            keep_report(desk, seat, who, event._data)
        except TriptychError as error:
            return desk.board(seat, problem=str(error))
        return desk.board(seat)

    board.submit(report, None, board, queue=False, **CLOSED)

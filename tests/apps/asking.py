"""Asking and judging by the Compare page's own handlers, without a browser: what a page sends, and reads."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

from studio.types import Sample, Text, Turn
from tests.apps.knocking import call

_PANEL = re.compile(r"<article.*?</article>", re.DOTALL)
_TITLE, _STATE = re.compile(r"<h3[^>]*>(.*?)</h3>", re.DOTALL), re.compile(r'class="tp-panel tp-(\w+)')
_TEXT = re.compile(r'<p class="tp-text">(.*?)</p>', re.DOTALL)
_NOTE = re.compile(r'<p class="tp-note">(.*?)</p>', re.DOTALL)


def asked(text: str) -> Sample:
    """Return a question as the engine takes it."""
    return Sample(turns=(Turn(role="user", parts=(Text(text=text),)),))


def plain(markup: str) -> str:
    """Return what a piece of HTML says."""
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


class Person:
    """One open page: asks by the page's own handlers, reads the panels, and gives a verdict."""

    def __init__(self, client: httpx.Client, found: dict[str, Any], session: str) -> None:
        """Open the page."""
        self.client, self.found, self.session = client, found, session
        self.notes: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.begun = threading.Event()

    def ask(self, text: str, names: Sequence[str], tokens: int = 8) -> tuple[dict[str, str], str, float]:
        """Return what each panel says, the token of the verdict, and the seconds until all was said."""
        began = time.monotonic()
        data = [None, None, text, None, list(names), False, 2, tokens, 0, 0]
        body = {"data": data, "fn_index": self.found["ask"]["id"], "session_hash": self.session}
        joined = self.client.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        board = self._follow()
        panels = _PANEL.findall(board)
        titles = [plain(_TITLE.findall(panel)[0]) for panel in panels]
        answers = {
            title: plain("".join(_TEXT.findall(panel))) for title, panel in zip(titles, panels, strict=True)
        }
        self.notes = {
            title: plain("".join(_NOTE.findall(panel))) for title, panel in zip(titles, panels, strict=True)
        }
        self.states = {title: _STATE.findall(panel)[0] for title, panel in zip(titles, panels, strict=True)}
        token = re.search(r'data-token="([^"]+)"', board)
        return answers, token[1] if token else "", time.monotonic() - began

    def _follow(self) -> str:
        """Return the board as it is in the end; `begun` is set when an answer has begun."""
        with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in stream.iter_lines():
                if '"process_generating"' in line and "tp-answering" in line:
                    self.begun.set()
                if '"process_completed"' in line:
                    self.begun.set()
                    last = json.loads(line[5:])
                    assert last["success"], line
                    return str(last["output"]["data"][0])
        raise AssertionError("the stream ended before the answer")

    def stop(self) -> None:
        """Stop what this page asked."""
        fine, said = call(self.client, self.found["halt"], [], self.session)
        assert fine, said

    def vote(self, place: int, token: str) -> bool:
        """Give a verdict, and return whether this one was acknowledged."""
        event = {"vote": str(place), "token": token}
        fine, said = call(self.client, self.found["vote"], [], self.session, event_data=event)
        return fine and "your verdict is kept" in said.lower() and "judged before" not in said

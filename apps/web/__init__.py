"""The web app: domain experts compare variants of a model side by side."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web import theme
from apps.web.desk import Desk, first_choice
from apps.web.examples import Examples
from apps.web.gates import gate, settle
from apps.web.login import PasswordGate
from apps.web.pages import pages
from apps.web.rounds import Answerer
from apps.web.server import Door, is_loopback, serve
from apps.web.visitors import Visitor, seated
from studio.errors import TriptychError
from studio.store import Store, media_folder
from studio.types import Sample, Text, Turn

__all__ = ["build", "launch", "serve"]


def build(
    engine: Answerer,
    *,
    examples: Mapping[str, Sequence[Sample]] | None = None,
    store: Store,
    media: Path | None = None,
    runs: Path = Path("runs"),
    blind: bool = False,
    visitors: Callable[[Any], Visitor] | None = None,
    sign_out: bool = False,
) -> gr.Blocks:
    """Return the app over an engine, ready to be served.

    Args:
        engine: the variants, at least two of them (`studio.variants.Engine`).
        examples: domain -> samples that are offered as example questions.
        store: where every comparison, answer and verdict is kept (`studio.store.Store`).
        media: folder in which pictures and recordings that were asked about are kept; None keeps none.
        runs: folder below which the pages keep runs, merge files and uploads.
        blind: whether the variants' names stay on the server until a verdict is given.
        visitors: tells who a request comes from (`apps.web.desk.Desk`); None: everyone.
        sign_out: whether the bar at the top leads to `/logout`.
    """
    _own_uploads()
    desk = Desk(engine, store, Examples(examples), media=media, runs=runs, blind=blind, visitors=visitors)
    app = gr.Blocks(title="Triptych", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400))
    found = pages()
    links = [(page.title, page.path) for page in found] + ([("Sign out", "logout")] if sign_out else [])
    for page in sorted(found, key=lambda page: page.path):  # Gradio wants the root first
        with app.route(page.title, page.path, show_in_navbar=False) if page.path else app:
            header = theme.header_html(page.title, links)
            gr.HTML(header, apply_default_css=False, elem_id="tp-top")
            page.lay_out(desk)
            _leave_with(app, desk)
    return app


def _leave_with(app: gr.Blocks, desk: Desk) -> None:
    def leave(request: gr.Request) -> None:
        desk.leave(request)

    app.unload(leave)


def launch(
    engine: Answerer,
    *,
    data: Mapping[str, Sequence[Sample]] | None = None,
    store_url: str = "sqlite:///triptych.db",
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    block: bool = True,
    runs: Path = Path("runs"),
    blind: bool = False,
    accounts: str | None = None,
    guests: bool = False,
    proxies: Sequence[str] = (),
    names: Sequence[str] = (),
) -> str:
    """Build the app over an engine, serve it and return its address; with ``block`` only after Ctrl-C.

    Comparisons are kept in the store at ``store_url``; for a SQLite file, the pictures and recordings
    stand beside it in a folder of the same name that ends in ``.media``.

    ``accounts`` says who may come in (`apps.web.gates.gate`): ``db``, a file, or ``header:NAME`` that one
    of ``proxies`` sets; without, only this machine, unless ``guests`` lets in everyone. ``names`` are those
    under which people call the app besides its address.

    Raises:
        TriptychError: fewer than two variants, a store that cannot be opened, no free port, nobody who
            could come in.
    """
    local = is_loopback(host)
    settle(accounts, local=local, guests=guests)
    store = Store(store_url)
    try:
        known = gate(accounts, store, local=local, blind=blind)
        door = Door(gate=known, host=host, port=port, proxies=proxies, names=names)
    except TriptychError:
        store.close()
        raise
    threading.Thread(target=_warm, args=(engine,), name="warm", daemon=True).start()
    app = build(
        engine,
        examples=data,
        store=store,
        media=media_folder(store_url),
        runs=runs,
        blind=blind,
        visitors=seated,
        sign_out=isinstance(door.gate, PasswordGate),
    )
    address = serve(app, door, open_browser=open_browser, block=block)
    if block:
        store.close()
    return address


def _own_uploads() -> None:
    """Let uploads stand in a folder that only this user can read and that goes when the program ends."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="triptych-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _warm(engine: Answerer) -> None:
    """Load what the first question would load, so that its times are those of answering alone."""
    hello = Sample(turns=(Turn(role="user", parts=(Text(text="hello"),)),))
    for name in first_choice(engine.names):
        with contextlib.suppress(Exception):  # what fails here fails again when it is asked, and is told then
            for _ in engine.stream(name, hello, max_new_tokens=1):
                pass

"""Serving the app: on the loopback by default, on the next free port, with closed doors."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from apps.web import theme
from apps.web.gates import Gate, HeaderGate, OpenGate
from apps.web.guard import Guard
from apps.web.http import host_of
from studio.accounts import ROLES
from studio.errors import ConfigError, TriptychError

MAX_UPLOAD, MAX_DATA = 20_000_000, 500_000_000
"""Largest upload in bytes: of an expert, and of those who may train on it."""
_PORTS = 50
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Door:
    """How an app is reached: at ``host``, through ``proxies``, under ``names``; ``gate`` says who comes in.

    ``proxies`` are addresses or networks whose word about a visitor counts, ``names`` those under which
    people call the app besides its address.
    """

    gate: Gate = field(default_factory=lambda: OpenGate(local=True, blind=False))
    host: str = "127.0.0.1"
    port: int = 7860
    proxies: Sequence[str] = ()
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what is no proxy and no name.

        Raises:
            ConfigError: also where a header is to name people and no proxy may set it.
        """
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ConfigError(
                    f"proxy '{proxy}' is no address and no network such as 10.0.0.0/24"
                ) from None
        for name in self.names:
            if host_of(name) != name.lower():
                raise ConfigError(f"'{name}' is not a host's name, such as compare.example.org")
        if isinstance(self.gate, HeaderGate) and not self.proxies:
            raise ConfigError("a header names people only if a --proxy may set it: say the proxy's address")

    def guard(self, pages: Sequence[str]) -> Guard:
        """Return the guard of an app with these pages beside its root."""
        local = is_loopback(self.host)
        own = (socket.gethostname().lower(), f"{socket.gethostname()}.local".lower())
        return Guard(
            None,
            hosts=(*_LOOPBACK_NAMES, *map(str.lower, self.names), *(() if local else own)),
            pages=pages,
            by_address=not local,
            gate=self.gate,
            proxies=self.proxies,
            uploads=Path(os.environ["GRADIO_TEMP_DIR"]) if "GRADIO_TEMP_DIR" in os.environ else None,
            largest={role: MAX_UPLOAD if role == "expert" else MAX_DATA for role in ROLES},
        )


def serve(app: gr.Blocks, door: Door | None = None, *, open_browser: bool = False, block: bool = True) -> str:
    """Serve a built app, print its address and return it; with ``block`` only after Ctrl-C.

    A port that is taken is passed over for the next free one.

    Raises:
        TriptychError: the host is not an address of this machine, or no port is free.
    """
    door = door or Door()
    chosen = free_port(door.host, door.port)
    guard = door.guard([page[0] for page in app.pages])
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # the guard decides which proxies are believed, not uvicorn

    @asynccontextmanager
    async def behind_the_guard(served: Any) -> AsyncIterator[None]:
        # Gradio puts its own middleware around what it is given, so the guard takes its place at the start.
        guard.app, served.middleware_stack = served.middleware_stack, guard
        yield

    app.queue(api_open=False, max_size=64, default_concurrency_limit=16)
    app.launch(
        server_name=door.host,
        server_port=chosen,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MAX_DATA,
        enable_monitoring=False,
        strict_cors=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        favicon_path=theme.favicon(),
        theme=theme.theme(),
        head=theme.head(),
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "lifespan": behind_the_guard,
        },
    )
    guard.ready = True
    shown = f"[{door.host}]" if ":" in door.host else door.host
    address = f"http://{shown}:{chosen}"
    if chosen != door.port:
        print(f"Port {door.port} is taken; using {chosen}.", flush=True)
    if not is_loopback(door.host):
        print(_beyond(door), flush=True)
    print(f"Compare the variants at {address}  (Ctrl-C ends the app)", flush=True)
    if open_browser:
        webbrowser.open(address)
    if block:
        wait(app)
    return address


def _beyond(door: Door) -> str:
    """Return what to know about an app that other machines can reach."""
    if isinstance(door.gate, OpenGate):
        return f"Anyone who can reach {door.host} can use this app as an expert: it has no accounts."
    if isinstance(door.gate, HeaderGate) or door.proxies:
        return f"People come in by the proxy at {', '.join(door.proxies)}."
    return (
        "Passwords travel unencrypted; put a proxy with TLS in front (--proxy), or use a network you trust."
    )


def wait(app: gr.Blocks) -> None:
    """Return when the user presses Ctrl-C, the app closed."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("", file=sys.stderr)
    finally:
        app.close(verbose=False)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int, tries: int = _PORTS) -> int:
    """Return the first free port at or above ``port``.

    Raises:
        TriptychError: the host is not an address of this machine, the port is out of range, or
            none of ``tries`` ports is free.
    """
    if not 0 < port < 65536:
        raise TriptychError(f"port {port} is out of range; allowed: 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + tries, 65536) - 1
    for candidate in range(port, last + 1):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), candidate))
                return candidate
            except socket.gaierror:
                raise TriptychError(f"'{host}' is not an address of this machine") from None
            except PermissionError:
                continue
            except OSError as error:
                if error.errno == 99:
                    raise TriptychError(f"'{host}' is not an address of this machine") from None
    raise TriptychError(f"no free port from {port} to {last}; choose another with --port")

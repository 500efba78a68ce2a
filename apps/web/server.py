"""Serving the app: on the loopback by default, on the next free port, with closed doors."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import webbrowser

import gradio as gr
from starlette.middleware import Middleware

from apps.web import theme
from apps.web.guard import Guard
from studio.errors import TriptychError

MAX_UPLOAD = "20mb"
"""Largest picture or recording that is accepted."""
_PORTS = 50
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def serve(
    app: gr.Blocks, host: str = "127.0.0.1", port: int = 7860, open_browser: bool = False, block: bool = True
) -> str:
    """Serve a built app, print its address and return it; with ``block`` only after Ctrl-C.

    A port that is taken is passed over for the next free one.

    Raises:
        TriptychError: the host is not an address of this machine, or no port is free.
    """
    chosen = free_port(host, port)
    local = is_loopback(host)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app.queue(api_open=False, max_size=64, default_concurrency_limit=16)
    app.launch(
        server_name=host,
        server_port=chosen,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
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
            "middleware": [
                Middleware(
                    Guard, hosts=_LOOPBACK_NAMES if local else (), pages=[page[0] for page in app.pages]
                )
            ],
        },
    )
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{chosen}"
    if chosen != port:
        print(f"Port {port} is taken; using {chosen}.", flush=True)
    if not local:
        print(f"Anyone who can reach {host} can use this app: it has no accounts.", flush=True)
    print(f"Compare the variants at {address}  (Ctrl-C ends the app)", flush=True)
    if open_browser:
        webbrowser.open(address)
    if block:
        wait(app)
    return address


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

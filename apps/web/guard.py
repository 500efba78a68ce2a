"""The door of the web app: known hosts, the routes that the page needs, and safe headers; no more.

Gradio serves many routes beside those of its own page (an API, its description, a proxy, monitoring).
The page works without them, so they do not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
_FOLDERS = ("/assets/", "/static/", "/svelte/")
_API = "/gradio_api"
_CALLS = (
    "/run/predict",
    "/queue/join",
    "/queue/data",
    "/heartbeat/",
    "/upload",
    "/upload_progress",
    "/file=",
    "/cancel",
    "/reset",
    "/startup-events",
    "/theme.css",
    "/login_check",
    "/app_id",
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self), microphone=(self), geolocation=(), payment=(), usb=()"),
)


class Guard:
    """ASGI middleware that answers 400 to unknown hosts and 404 to routes the page does not use.

    ``hosts`` are the names under which the app may be called, without ports; empty allows any. On
    the loopback this keeps a page of another site from reaching the app under a name of its own
    that points to 127.0.0.1 (DNS rebinding). ``pages`` are the addresses of pages beside the root.
    """

    def __init__(self, app: Any, hosts: Sequence[str] = (), pages: Sequence[str] = ()) -> None:
        """Stand before ``app``."""
        self.app, self.hosts, self.pages = app, frozenset(hosts), frozenset(f"/{page}" for page in pages)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if self.hosts and _host(scope) not in self.hosts:
            await _refuse(send, 400, "unknown host")
        elif scope["path"] not in self.pages and not allowed(scope["path"]):
            await _refuse(send, 404, "not found")
        else:
            await self.app(scope, receive, _with_headers(send))


def allowed(path: str) -> bool:
    """Return whether every page needs this route."""
    if path in _PAGE or path.startswith(_FOLDERS):
        return True
    if not path.startswith(f"{_API}/"):
        return False
    call = path.removeprefix(_API)
    if call.startswith("/file="):
        return not call.removeprefix("/file=").lower().startswith(("http:", "https:"))
    return call.rstrip("/") in _CALLS or call.startswith("/heartbeat/")


def _host(scope: dict[str, Any]) -> str:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return host.rsplit(":", 1)[0] if not host.endswith("]") else host


def _with_headers(send: Any) -> Any:
    async def answer(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return answer


async def _refuse(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

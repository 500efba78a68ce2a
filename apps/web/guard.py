"""The door of the web app: known hosts and people, routes that the page needs, safe headers; no more.

Gradio serves many routes beside those of its own page (an API, its description, a proxy, monitoring).
The page works without them, so they do not exist here. The guard stands before all that Gradio puts
around its app, its own CORS answers included, and reads what it lets through: sizes, origins, sessions.
"""

from __future__ import annotations

import ipaddress
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect

from apps.web.gates import PROXY, Gate, OpenGate
from apps.web.http import (
    Header,
    Receive,
    Scope,
    Send,
    answer,
    deeper,
    header,
    host_of,
    is_address,
    read_body,
    replayed,
)
from apps.web.limits import Limits
from apps.web.visitors import SEAT, Visitor

MAX_JSON = 1 << 20
"""Largest body of a call to a handler, in bytes; media come as uploads."""
MAX_DEPTH = 24
"""How deep lists and objects in such a body may stand in each other."""
MAX_HEADERS = 16 << 10
"""Most bytes of a request's headers together."""
_PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
_FOLDERS = ("/assets/", "/static/", "/svelte/")
_API = "/gradio_api"
_READS = ("/queue/data", "/upload_progress", "/startup-events", "/theme.css", "/login_check", "/app_id")
_CALLS = ("/run/predict", "/queue/join", "/cancel", "/reset")
_UPLOAD = "/upload"
_FIELDS = ("data", "event_data", "event_id", "fn_index", "session_hash", "trigger_id")
_SESSIONS = 10_000
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(self), geolocation=(), payment=(), usb=()"),
)
_FILE_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
    (b"cache-control", b"private, no-store"),
    *_HEADERS[1:],
)
#: What an answer with a file may say of itself: Gradio's ranged answers repeat the request's headers.
_OF_FILES = (b"content-", b"accept-ranges", b"last-modified", b"etag", b"location", b"cache-control")
_FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-gradio-server")


class Guard:
    """ASGI middleware that lets through what a page asks, from hosts and people that are known.

    ``hosts`` are the names under which the app may be called, without ports; empty allows any, and
    ``by_address`` any number. This keeps a page of another site from reaching the app under a name of
    its own that points here (DNS rebinding). ``pages`` are the addresses of pages beside the root.
    ``gate`` says who asks, ``proxies`` are the addresses whose word about the visitor counts. An upload
    has at most ``largest`` bytes by role; what is left of one that broke off in the folder ``uploads`` is
    removed. Until `ready`, only the app's own start is let through.
    """

    def __init__(
        self,
        app: Any,
        hosts: Sequence[str] = (),
        pages: Sequence[str] = (),
        *,
        by_address: bool = False,
        gate: Gate | None = None,
        proxies: Sequence[str] = (),
        largest: dict[str, int] | None = None,
        uploads: Path | None = None,
    ) -> None:
        """Stand before ``app``."""
        self.app, self.hosts, self.pages = app, frozenset(hosts), frozenset(f"/{page}" for page in pages)
        self.by_address = by_address
        self.gate: Gate = gate or OpenGate(local=True, blind=False)
        self.limits = Limits()
        self.ready = False
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._largest = largest or {}
        self._folder, self._uploading, self._broken = uploads, 0, False
        self._owners: OrderedDict[str, str] = OrderedDict()  # a page's session -> its visitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        scope = self._arrived(scope)
        send = _with_headers(send, scope["path"])
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer(send, *refusal)
        elif not self.ready:
            await self.app(scope, receive, send)
        elif not await self.gate.serve(scope, receive, send):
            visitor = await self.gate.visitor(scope)
            if visitor is None:
                await self.gate.refuse(scope, send)
            else:
                await self._admitted({**scope, SEAT: visitor}, receive, send, visitor)

    def _arrived(self, scope: Scope) -> Scope:
        """Return the request with what its proxy says of it, if that may be believed; else without."""
        peer = scope["client"][0] if scope.get("client") else ""
        trusted = self._trusts(peer)
        if not trusted:
            headers = [pair for pair in scope["headers"] if not pair[0].startswith(_FORWARDED)]
            return {**scope, "headers": headers, PROXY: False}
        headers = [pair for pair in scope["headers"] if pair[0] != b"x-gradio-server"]
        hops = [hop.strip() for hop in header(scope, b"x-forwarded-for").split(",") if hop.strip()]
        client = next((hop for hop in reversed(hops) if not self._trusts(hop)), peer)
        secure = header(scope, b"x-forwarded-proto").split(",")[0].strip() == "https"
        scheme = "https" if secure else scope["scheme"]
        return {**scope, "headers": headers, "client": (client, 0), "scheme": scheme, PROXY: True}

    def _trusts(self, address: str) -> bool:
        return is_address(address) and any(ipaddress.ip_address(address) in one for one in self._proxies)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return why a request is refused whoever sends it."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return 431, "the headers are too large\n"
        if not self.ready:
            own = scope["path"] in ("/", f"{_API}/startup-events") and scope["method"] in ("GET", "HEAD")
            return None if own else (503, "starting\n")
        forwarded = header(scope, b"x-forwarded-host").split(",")[0].strip()
        if not all(self._knows(name) for name in (header(scope, b"host"), forwarded) if name):
            return 400, "unknown host: the app's --name lets one in\n"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "allowed: GET, HEAD, POST\n"
        if scope["method"] == "POST" and not self._same_site(scope, forwarded):
            return 403, "this came from a page of another site\n"
        return None

    def _knows(self, netloc: str) -> bool:
        name = host_of(netloc)
        return not self.hosts or name in self.hosts or (self.by_address and is_address(name))

    def _same_site(self, scope: Scope, forwarded: str) -> bool:
        """Return whether a page of this app sent a request, or no page at all."""
        origin = header(scope, b"origin")
        if not origin:
            return header(scope, b"sec-fetch-site") in ("", "same-origin", "none")
        netloc = origin.partition("://")[2]
        if netloc and netloc in (forwarded, header(scope, b"host")):
            return True
        return scope.get(PROXY) is True and host_of(netloc) in self.hosts

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        path, method = scope["path"], scope["method"]
        call = path.removeprefix(_API) if path.startswith(f"{_API}/") else ""
        call = call.rstrip("/") if not call.startswith("/file=") else call
        if method == "POST" and call == _UPLOAD:
            await self._upload(scope, receive, send, visitor)
        elif method == "POST" and call in _CALLS:
            await self._call(scope, receive, send, visitor)
        elif method == "POST" or (path not in self.pages and not allowed(path)):
            await answer(send, 404, "not found\n")
        elif not self._owns(visitor, _session_of(scope, call)):
            await answer(send, 403, "this page belongs to somebody else\n")
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        """Let an upload through whose size is told and allowed; nothing of another is read."""
        told, most = header(scope, b"content-length"), self._largest.get(visitor.role, 0)
        if not told.isdecimal():
            await answer(send, 411, "an upload says its length\n", [(b"connection", b"close")])
        elif int(told) > most:
            problem = f"an upload has at most {most // 1_000_000} MB\n"
            await answer(send, 413, problem, [(b"connection", b"close")])
        elif wait := max(
            self.limits.wait("uploads", visitor),
            self.limits.wait("megabytes", visitor, int(told) / 1e6),
        ):
            await _later(send, wait)
        else:
            self._uploading += 1
            try:
                await self.app(scope, receive, send)
            except ClientDisconnect:
                self._broken = True
            finally:
                self._uploading -= 1
                if self._broken and not self._uploading:
                    self._broken = False
                    self._sweep()

    def _sweep(self) -> None:
        """Remove what Gradio leaves of uploads that broke off: a finished one stands in a folder."""
        for left in self._folder.glob("tmp*") if self._folder else ():
            if left.is_file():
                left.unlink(missing_ok=True)

    async def _call(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        """Let a call to a handler through that is small, well formed, and from its own page."""
        told = header(scope, b"content-length")
        body = None if told.isdecimal() and int(told) > MAX_JSON else await read_body(receive, MAX_JSON)
        if body is None:
            problem = f"a call has at most {MAX_JSON >> 20} MiB\n"
            await answer(send, 413, problem, [(b"connection", b"close")])
            return
        if wait := self.limits.wait("calls", visitor):
            await _later(send, wait)
            return
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict) or deeper(asked, MAX_DEPTH):
                raise ValueError
            body = json.dumps({key: asked[key] for key in _FIELDS if key in asked}).encode()
        except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            await answer(send, 400, "a call is a JSON object, not deeply nested\n")
            return
        session = asked.get("session_hash")
        if not (isinstance(session, str | None) and self._owns(visitor, session)):
            await answer(send, 403, "this page belongs to somebody else\n")
            return
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.app({**scope, "headers": headers}, replayed(body, receive), send)

    def _owns(self, visitor: Visitor, session: str | None) -> bool:
        """Return whether a page's session is the visitor's; the first who names it owns it."""
        if not session:
            return True
        if len(session) > 64:
            return False
        owner = self._owners.setdefault(session, visitor.name)
        self._owners.move_to_end(session)
        while len(self._owners) > _SESSIONS:
            self._owners.popitem(last=False)
        return owner == visitor.name


def allowed(path: str) -> bool:
    """Return whether every page needs to read this route."""
    if path in _PAGE or path.startswith(_FOLDERS):
        return True
    if not path.startswith(f"{_API}/"):
        return False
    call = path.removeprefix(_API)
    if call.startswith("/file="):
        return "://" not in call and not call.removeprefix("/file=").lower().startswith(("http:", "https:"))
    return call.rstrip("/") in _READS or call.startswith("/heartbeat/")


def _session_of(scope: Scope, call: str) -> str | None:
    if call.startswith("/heartbeat/"):
        return call.removeprefix("/heartbeat/")
    if call == "/queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[-1]
    return None


def _with_headers(send: Send, path: str) -> Send:
    """Return a ``send`` that adds the safe headers an answer has not, and drops what Gradio says of CORS."""
    is_file = path.startswith(f"{_API}/file=")
    fixed = path.startswith(_FOLDERS)

    async def safe(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            told = [pair for pair in message.get("headers", ()) if not _dropped(pair[0].lower(), is_file)]
            if not is_file and not fixed and not any(name == b"cache-control" for name, _ in told):
                told.append((b"cache-control", b"no-store"))
            names = {name.lower() for name, _ in told}
            more = [pair for pair in (_FILE_HEADERS if is_file else _HEADERS) if pair[0] not in names]
            message = {**message, "headers": [*told, *more]}
        await send(message)

    return safe


def _dropped(name: bytes, is_file: bool) -> bool:
    return name.startswith(b"access-control-") or (is_file and not name.startswith(_OF_FILES))


async def _later(send: Send, seconds: float) -> None:
    after = str(max(1, min(round(seconds), 86400)) if seconds < 1e9 else 86400).encode()
    await answer(send, 429, "too much at once; try again later\n", [(b"retry-after", after)])

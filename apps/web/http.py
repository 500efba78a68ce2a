"""Small pieces of HTTP for the app's door: reading a request's headers and body, sending a short answer."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]


def header(scope: Scope, name: bytes) -> str:
    """Return a header's value, or nothing; of several the first."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def cookie(scope: Scope, name: str) -> str:
    """Return a cookie's value, or nothing."""
    for key, value in scope["headers"]:
        if key == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                found, _, told = pair.strip().partition("=")
                if found == name:
                    return told
    return ""


def host_of(netloc: str) -> str:
    """Return the name in a host header or an origin, without its port, in lower case."""
    try:
        name = urlsplit(netloc if "//" in netloc else f"//{netloc}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


def is_address(name: str) -> bool:
    """Return whether a host's name is a number (of IPv4 or IPv6) that no name server was asked for."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects stand in each other more than ``depth`` deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(deeper(one, depth - 1) for one in inner if isinstance(one, dict | list))


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Return a request's body, or None if it is longer than ``most`` bytes or the visitor has left."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        size += len(message.get("body", b""))
        if size > most:
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read once more, and then whatever comes."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer(
    send: Send,
    status: int,
    body: str,
    headers: Iterable[Header] = (),
    kind: str = "text/plain; charset=utf-8",
) -> None:
    """Send a whole answer."""
    data = body.encode()
    about: Sequence[Header] = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(data)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": list(about)})
    await send({"type": "http.response.body", "body": data})

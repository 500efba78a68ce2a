"""What a stranger finds at the door of a running app: each safe setting, asked for from outside.

Requests are written to the wire as they are, so that paths and hosts arrive unchanged. Nothing is run or
changed in the app: a call that is tried on it has too few inputs for any handler.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from studio.errors import TriptychError

API = "/gradio_api"
SECONDS, PATIENCE = 20.0, 4.0
"""How long an answer may take, and how long one to an upload that never comes."""
EVIL = "evil.example"
A_FILE = "/etc/passwd"
IN_IT = b"root:"
HUGE = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One setting: whether it is safe (``ok``), open (``fault``) or could not be seen (``note``), and why."""

    name: str
    state: Literal["ok", "fault", "note"]
    found: str


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer: its status, headers in lower case (the last of each name), and the start of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def barred(self) -> bool:
        """Whether it only says that one must sign in."""
        to_login = self.status in (302, 303, 307) and "login" in self.headers.get("location", "")
        return self.status in (401, 403) or to_login


class Caller:
    """Asks one app."""

    def __init__(self, address: str) -> None:
        """Name the app; a `TriptychError` if that is no address, or nothing answers there."""
        there = urlsplit(address if "://" in address else f"http://{address}")
        if there.scheme not in ("http", "https") or not there.hostname:
            raise TriptychError(f"'{address}' is not the address of an app, such as http://127.0.0.1:7860")
        try:
            self.port = there.port or (443 if there.scheme == "https" else 80)
        except ValueError:
            raise TriptychError(f"'{address}' has no port from 1 to 65535") from None
        self.secure, self.host, self.root = there.scheme == "https", there.hostname, there.path.rstrip("/")
        self.cookie = ""
        self.config: dict[str, Any] | None = None
        try:
            self.ask("/")
        except OSError as error:
            raise TriptychError(f"nothing answers at {address}: {error}") from None

    @property
    def loopback(self) -> bool:
        """Whether the address is one that only this machine reaches."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        signed_in: bool = True,
        seconds: float = SECONDS,
        most: int = 4 << 20,
    ) -> Reply:
        """Send one request and return the answer; only ``most`` bytes of it are read."""
        more = dict(headers or {})
        if signed_in and self.cookie:
            more["Cookie"] = self.cookie
        wire = self._wire(seconds)
        try:
            wire.putrequest(method, self.root + path, skip_host="Host" in more, skip_accept_encoding=True)
            if body is not None and "Content-Length" not in more:
                more["Content-Length"] = str(len(body))
            for name, value in more.items():
                wire.putheader(name, value)
            wire.endheaders(body)
            told = wire.getresponse()
            kind = told.getheader("content-type", "")
            read = b"" if kind.startswith("text/event-stream") else told.read(most)
            return Reply(
                status=told.status,
                headers={name.lower(): value for name, value in told.getheaders()},
                body=read,
            )
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(str(error)) from None
        finally:
            wire.close()

    def call(self, data: Mapping[str, Any]) -> Reply:
        """Post JSON to the route that runs handlers at once."""
        body = json.dumps(data).encode()
        return self.ask(f"{API}/run/predict", "POST", {"Content-Type": "application/json"}, body)

    def sign_in(self, name: str, password: str) -> Reply:
        """Fill in the app's form; the cookie it gives goes with every further request.

        Raises:
            TriptychError: the form refuses.
        """
        body = urlencode({"name": name, "username": name, "password": password}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        told = self.ask("/login", "POST", kind, body)
        given = told.headers.get("set-cookie", "")
        if told.status not in (200, 302, 303) or not given:
            raise TriptychError(f"the app does not let {name} in with this password ({told.status})")
        self.cookie = given.partition(";")[0]
        return told

    def look(self) -> None:
        """Read the app's configuration, which most checks look into, if it is to be had."""
        told = self.ask("/config")
        if told.status == 200:
            try:
                self.config = json.loads(told.body)
            except ValueError:
                self.config = None

    def _wire(self, seconds: float) -> http.client.HTTPConnection:
        if self.secure:
            trust = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=seconds, context=trust)
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)


Check = Callable[[Caller], Iterator[Finding]]


def inspect(caller: Caller, checks: Sequence[Check]) -> Iterator[Finding]:
    """Yield what each check finds; one whose request gets no answer says so."""
    caller.look()
    for check in checks:
        try:
            yield from check(caller)
        except OSError as error:
            name = check.__name__.strip("_").replace("_", " ")
            yield Finding(name=name, state="note", found=f"no answer: {error or type(error).__name__}")


def finding(name: str, fault: str, fine: str) -> Finding:
    """Return a fault if there is one to tell, otherwise that all is fine."""
    return Finding(name=name, state="fault" if fault else "ok", found=fault or fine)

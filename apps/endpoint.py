"""Models behind an OpenAI-compatible service, asked as `apps.evaluate` asks an engine.

    endpoint = Endpoint("http://127.0.0.1:8000", key=read_key("TRIPTYCH_ENDPOINT_KEY", None))
    evaluate(endpoint, data, ["exact_match"], log)

What is asked leaves this process: the host is this machine, or one that was named on purpose. Nothing is
redirected, no proxy of the environment is used, and a key goes only to this machine or by TLS.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from studio.errors import ConfigError, TriptychError, unknown
from studio.log import Log
from studio.media import kind_of
from studio.types import Image, Part, Sample, Text

KEY = "TRIPTYCH_ENDPOINT_KEY"
"""The environment variable that holds the key, if no file does."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LARGEST = 32 << 20
"""Longest reply that is read, in bytes."""
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_PATIENCE = 60.0  # longest wait that a service may ask for, in seconds


class EndpointError(TriptychError):
    """A service that cannot be reached, refuses, or answers what is no answer."""


class Endpoint:
    """One service; ``names`` are the models it is asked for, all that it lists unless some are named."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        models: Sequence[str] = (),
        hosts: Sequence[str] = (),
        timeout: float = 120.0,
        tries: int = 4,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address and ask which models there are.

        Args:
            url: ``http://host:port``, with or without ``/v1``.
            key: sent as bearer; empty for none.
            models: those to ask; all if empty.
            hosts: hosts beside this machine that may be asked.
            timeout: seconds for one reply.
            tries: how often one question is asked before the service counts as failed.
            wait: waits so many seconds between two tries.

        Raises:
            ConfigError: the address is none, names a host that was not named, or would leak the key.
            EndpointError: the service cannot be reached, or has no such model.
        """
        self.url = checked_address(url, hosts, bool(key))
        self._key, self._timeout, self._tries, self._wait = key, timeout, max(tries, 1), wait
        self._run = secrets.token_hex(8)
        handlers = (urllib.request.ProxyHandler({}), _NoRedirect())
        self._opener = urllib.request.build_opener(*handlers)
        listed = self._ask("models").get("data")
        known = (
            [str(one["id"]) for one in listed if isinstance(one, dict) and "id" in one]
            if isinstance(listed, list)
            else []
        )
        for name in models:
            if name not in known:
                raise EndpointError(f"{self.url}: {unknown('model', name, known)}")
        self._names = tuple(models) or tuple(known)
        if not self._names:
            raise EndpointError(f"{self.url} lists no model; is it a service of chat completions?")

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are asked."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return what no other look shares: a service does not tell when it has changed."""
        return f"{self.url} {name} {self._run}"

    def answers(
        self,
        name: str,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int = 48,
        batch_size: int = 16,
        log: Log | None = None,
    ) -> list[str]:
        """Return one model's answers, greedily, one question at a time.

        Raises:
            EndpointError: in one sentence, when a question is not answered after all tries.
        """
        found = []
        for sample in samples:
            body = {
                "model": name,
                "messages": [message(turn.role, turn.parts) for turn in sample.prompt],
                "max_tokens": max_new_tokens,
                "temperature": 0,
                "seed": 0,
            }
            reply = self._ask("chat/completions", body)
            try:
                text = reply["choices"][0]["message"]["content"]
            except (KeyError, IndexError, TypeError):
                raise EndpointError(f"{self.url} answered {sample.where} with no message") from None
            found.append(text if isinstance(text, str) else "")
            if log is not None:
                log.advance()
        return found

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        """Refuse: a service does not tell how likely a given answer is.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a metric that needs a model's probabilities cannot be watched at an endpoint; watch its folder"
        )

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "User-Agent": "triptych"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        asked = urllib.request.Request(f"{self.url}/{path}", data, headers)
        for left in reversed(range(self._tries)):
            pause = min(2.0 ** (self._tries - 1 - left), _PATIENCE)
            try:
                with self._opener.open(asked, timeout=self._timeout) as reply:
                    return _object(reply.read(LARGEST + 1), self.url)
            except urllib.error.HTTPError as error:
                with error:
                    why = f"answered {error.code}: {_reason(error.read(65536))}"
                    pause = _asked_pause(error.headers.get("Retry-After"), pause)
                if error.code not in _AGAIN:
                    left = 0
            except (OSError, http.client.HTTPException) as error:
                inner = getattr(error, "reason", error)
                slow = isinstance(inner, TimeoutError)
                why = f"did not answer within {self._timeout:g} s" if slow else f"cannot be reached ({inner})"
            if not left:
                raise EndpointError(f"{self.url} {why}")
            self._wait(pause)
        raise AssertionError("unreachable")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the refusal that it is: it could lead to a host that nobody named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


def checked_address(url: str, hosts: Sequence[str], keyed: bool) -> str:
    """Return a service's address, ending in its version, as in ``http://127.0.0.1:8000/v1``.

    Raises:
        ConfigError: it is none, holds a secret, names a host that was not named, or a key would be readable.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"endpoint '{url}' is no address; it reads http://host:port or https://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"an endpoint's address is host, port and path alone; a key goes into ${KEY}")
    local = host in LOOPBACK or host.startswith("127.")
    if not local and host not in hosts:
        raise ConfigError(
            f"the questions and their media would be sent to '{host}'; say --host {host} as well if they may"
        )
    if keyed and not local and parts.scheme != "https":
        raise ConfigError(f"a key would be sent to '{host}' where anybody can read it; use https://")
    place = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{path}"


def read_key(file: Path | None) -> str:
    """Return the key from a file, or from the environment variable `KEY`; empty if there is none.

    Raises:
        ConfigError: the file cannot be read, or holds no key.
    """
    if file is None:
        key = os.environ.get(KEY, "").strip()
    else:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"the key's file {file} cannot be read: {reason}") from None
        if not key:
            raise ConfigError(f"the key's file {file} is empty")
    if any(not sign.isascii() or not sign.isprintable() or sign.isspace() for sign in key):
        raise ConfigError("the endpoint's key must be one line of plain characters")
    return key


def message(role: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Return a turn as the protocol has it: text, pictures as data URLs, sounds as ``input_audio``."""
    if all(isinstance(part, Text) for part in parts):
        return {"role": role, "content": "".join(part.text for part in parts if isinstance(part, Text))}
    return {"role": role, "content": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    data = base64.b64encode(part.path.read_bytes()).decode()
    form = kind_of(part.path).split()[1].lower()
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}}
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def _object(data: bytes, url: str) -> dict[str, Any]:
    try:
        told = json.loads(data) if len(data) <= LARGEST else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise EndpointError(f"{url} answered what is no JSON object, or more than {LARGEST >> 20} MiB")
    return told


def _reason(data: bytes) -> str:
    """Return the sentence of a refusal, short and in one line."""
    text = data.decode(errors="replace")
    try:
        told = json.loads(text)
        text = str(told["error"]["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:300] or "no reason"


def _asked_pause(header: str | None, otherwise: float) -> float:
    try:
        return min(max(float(header or ""), 0.0), _PATIENCE)
    except ValueError:
        return otherwise

"""Who has signed in: random tokens in cookies, known here by their hash, that end by themselves."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

IDLE, LONGEST = 8 * 3600.0, 24 * 3600.0
"""Seconds after which a session ends that nobody uses, and that anybody uses."""
_KEPT = 10_000


@dataclass(frozen=True, kw_only=True)
class Session:
    """A name that has signed in, when, when it was last seen, and the mark of the password it used."""

    name: str
    mark: str
    born: float
    seen: float


class Sessions:
    """The open sessions of an app, in memory: they end with it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` tells seconds."""
        self._clock, self._lock = clock, threading.Lock()
        self._open: dict[str, Session] = {}

    def open(self, name: str, password: str) -> str:
        """Return a fresh token of 256 random bits for a name; ``password`` is the account's hash."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if not _over(one, now)}
            while len(self._open) >= _KEPT:
                self._open.pop(next(iter(self._open)))
            self._open[_hash(token)] = Session(name=name, mark=mark(password), born=now, seen=now)
        return token

    def find(self, token: str) -> Session | None:
        """Return the session of a token, seen now; None for one that is unknown or has ended."""
        key, now = _hash(token), self._clock()
        with self._lock:
            known = self._open.pop(key, None)
            if known is None or _over(known, now):
                return None
            self._open[key] = replace(known, seen=now)
            return known

    def close(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_hash(token), None)


def mark(password: str) -> str:
    """Return what tells one password's hash from another: a session ends when the password changes."""
    return hashlib.sha256(password.encode()).hexdigest()


def _over(session: Session, now: float) -> bool:
    return now - session.seen > IDLE or now - session.born > LONGEST


def _hash(token: str) -> str:
    """Return what stands here for a token: finding it takes no comparison with the token itself."""
    return hashlib.sha256(token.encode()).hexdigest()

"""How often anyone may do what costs others: buckets that fill by the minute, one for each visitor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from apps.web.visitors import Refused, Visitor

_KEPT = 10_000
"""Visitors that are remembered; the least recent is forgotten, which gives it a full bucket."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So much at once, and so much more a minute."""

    burst: float
    per_minute: float


class Limit:
    """One rate for many visitors; may be used from many threads."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets; ``clock`` tells seconds."""
        self.rate, self._clock = rate, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}  # who -> what is left, and when that was

    def take(self, who: str, amount: float = 1.0) -> float:
        """Take from a bucket and return 0, or take nothing and return the seconds until there is enough.

        More than a full bucket is never there: that returns infinity.
        """
        if amount > self.rate.burst:
            return float("inf")
        with self._lock:
            now = self._clock()
            left, before = self._buckets.pop(who, (self.rate.burst, now))
            left = min(self.rate.burst, left + (now - before) * self.rate.per_minute / 60)
            enough = left >= amount
            self._buckets[who] = (left - amount if enough else left, now)
            while len(self._buckets) > _KEPT:
                self._buckets.pop(next(iter(self._buckets)))
        return 0.0 if enough else max((amount - left) * 60 / self.rate.per_minute, 0.001)

    def give_back(self, who: str, amount: float = 1.0) -> None:
        """Put back what was taken for something that does not count."""
        with self._lock:
            if who in self._buckets:
                left, before = self._buckets[who]
                self._buckets[who] = (min(self.rate.burst, left + amount), before)


RATES = {
    "questions": Rate(burst=30, per_minute=30),
    "votes": Rate(burst=60, per_minute=60),
    "reports": Rate(burst=30, per_minute=30),
    "calls": Rate(burst=300, per_minute=600),
    "uploads": Rate(burst=60, per_minute=30),
    "megabytes": Rate(burst=600, per_minute=60),
}
"""What a visitor may do; ``calls`` are all of a page's requests to a handler, ``megabytes`` of uploads."""


class Limits:
    """The limits of all visitors; the one visitor of a loopback without accounts has none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets."""
        self._limits = {kind: Limit(rate, clock) for kind, rate in RATES.items()}

    def wait(self, kind: str, who: Visitor, amount: float = 1.0) -> float:
        """Take from a visitor's bucket and return 0, or the seconds until there is enough."""
        return 0.0 if who.name == "local" else self._limits[kind].take(who.name, amount)

    def spend(self, kind: str, who: Visitor) -> None:
        """Take one of a visitor's ``questions``, ``votes`` or ``reports``.

        Raises:
            Refused: there are none left for now; the sentence says how long.
        """
        seconds = self.wait(kind, who)
        if seconds:
            raise Refused(
                f"That are more {kind} than {RATES[kind].per_minute:.0f} a minute;"
                f" try again in {max(1, round(seconds))} seconds."
            )

"""The work on one explanation: in a thread beside the rounds, in slices, so that nobody waits for it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.web.question import conversation
from studio.errors import ConfigError, DataError, TriptychError

if TYPE_CHECKING:
    from apps.web.rounds import Round
    from studio.explain import Explanation
    from studio.types import Sample
    from studio.variants import Engine

GRID, SPANS, BUDGET, BATCH = 5, 10, 300, 8
"""How finely the page cuts, its forward passes, and how many of them hold the model at a time."""
SECONDS, LONGEST = 20.0, 120.0
"""When no further order is begun, and when the work is given up."""
_PAUSE = 0.01  # between slices: whoever waits for the models is let in
FAILED = "This answer could not be explained; the server's log says why."
TOO_LARGE = "This question has too many parts to be explained here; `triptych explain` may take longer."
TOO_LONG = "This took too long for the page and was given up; `triptych explain` may take longer."


class Ended(Exception):
    """Nobody wants the explanation any more."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which answer of a finished round is to be explained, and against whose, by place."""

    place: int
    against: int | None = None


def read_wish(sent: Any, done: Round | None) -> Wish:
    """Return what a page asked to have explained.

    Raises:
        DataError: there are no finished answers, or not these.
    """
    if done is None or not done.over:
        raise DataError("There is no finished answer to explain.")
    told = sent if isinstance(sent, Mapping) else {}
    known = [at for at, panel in enumerate(done.panels) if panel.state in ("done", "stopped") and panel.text]
    place, against = told.get("answer"), told.get("against")
    if type(place) is not int or place not in known:
        raise DataError("There is no such answer to explain.")
    if against is not None and (type(against) is not int or against not in known or against == place):
        raise DataError("There is no such answer to explain it against.")
    return Wish(place=place, against=against)


class Work:
    """One explanation on its way.

    ``turn`` is the rounds' lock, held for one slice at a time; ``wanted`` says whether anybody still waits.
    ``share`` is how much is done, from 0 to 1; afterwards ``found`` or ``problem`` stands, or neither if it
    was ended.
    """

    def __init__(
        self, engine: Engine, done: Round, wish: Wish, *, turn: threading.Lock, wanted: Callable[[], bool]
    ) -> None:
        """Begin in the background."""
        panel = done.panels[wish.place]
        self.sample: Sample = conversation(panel.before, done.question)
        self.share, self.found, self.problem = 0.0, None, ""
        self.found: Explanation | None
        self._engine, self._turn, self._wanted = engine, turn, wanted
        self._answer, self._name = panel.text, done.names[panel.name]
        self._against = "" if wish.against is None else done.names[done.panels[wish.against].name]
        self._stop, self._total, self._passes = threading.Event(), 1, 0
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="explanation", daemon=True)
        self._thread.start()

    def watch(self, every: float = 0.4) -> Iterator[float]:
        """Yield how much is done, until the work is over; ending the iterator ends the work."""
        try:
            while self._thread.is_alive():
                self._thread.join(every)
                yield self.share
        finally:
            self._stop.set()

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        """Learn how many passes there will be (`studio.log.Log`)."""
        self._total = max(total, 1)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Count passes."""
        self._passes += n
        self.share = min(max(self._passes / self._total, 0.0), 1.0)

    def say(self, message: str) -> None:
        """Tell the server's log."""
        print(message, file=sys.stderr)

    def _run(self) -> None:
        from studio.explain import explain

        try:
            self.found = explain(
                self._engine,
                self._name,
                self.sample,
                against=self._against,
                answer=self._answer,
                grid=GRID,
                spans=SPANS,
                budget=BUDGET * (2 if self._against else 1),
                seconds=SECONDS,
                batch_size=BATCH,
                log=self,
                within=self._slice,
            )
        except Ended as reason:
            self.problem = str(reason)
        except ConfigError as error:
            self.say(str(error))
            self.problem = TOO_LARGE
        except TriptychError as error:  # its sentence may name a variant or a place on this machine
            self.say(str(error))
            self.problem = FAILED
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.problem = FAILED

    @contextmanager
    def _slice(self) -> Iterator[None]:
        """Hold the rounds' turn for one batch, unless nobody waits or it has been too long."""
        time.sleep(_PAUSE)
        while not self._turn.acquire(timeout=0.2):
            self._check()
        try:
            self._check()
            yield
        finally:
            self._turn.release()

    def _check(self) -> None:
        if self._stop.is_set() or not self._wanted():
            raise Ended("")
        if time.monotonic() - self._began > LONGEST:
            raise Ended(TOO_LONG)

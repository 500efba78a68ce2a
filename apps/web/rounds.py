"""One question to several variants: a thread that answers, and panels that show how far it is."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from apps.web.question import Question, without_paths
from studio.errors import TriptychError
from studio.types import Sample

State = Literal["ready", "waiting", "answering", "done", "stopped", "failed"]
OVER: frozenset[State] = frozenset({"done", "stopped", "failed"})


class Answerer(Protocol):
    """What the page needs of `studio.variants.Engine`."""

    @property
    def names(self) -> Sequence[str]:
        """The variants that can be asked."""

    def stream(self, name: str, sample: Sample, **decoding: Any) -> Iterator[str]:
        """Yield one variant's text so far, again and again, until it is complete."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One variant's side of a round: its text so far, its state, and its times in seconds.

    ``first`` is the time to the first text and ``seconds`` the time to the last, both counted
    from the moment the variant's turn began, so waiting for the others is not held against it.
    """

    name: str
    state: State = "ready"
    text: str = ""
    first: float | None = None
    seconds: float | None = None
    note: str = ""

    @property
    def words(self) -> int:
        """The length of the text in words."""
        return len(self.text.split())


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How every variant of a round writes: the same for all, so that only the weights differ."""

    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0


class Keeps(Protocol):
    """What a round needs of `apps.web.keep.Keeper`."""

    def question(self, asked: Round) -> int | None:
        """Keep the question; return its number, or None if it could not be kept."""

    def answer(self, asked: Round, panel: Panel) -> bool:
        """Keep an answer; return whether it is safe."""


class Round:
    """A question on its way: variants answer one after another, in the order of the panels.

    One at a time keeps the times comparable and lets variants of one base share it; ``turn`` is
    the lock that also keeps the rounds of different visitors apart. The thread goes on when
    nobody watches, until it is done or stopped; ``keeper`` keeps the question before the first
    answer, and every answer as it ends. ``kept`` is the question's number in the store.
    """

    def __init__(
        self,
        engine: Answerer,
        question: Question,
        names: Mapping[str, str],
        decoding: Decoding,
        *,
        turn: threading.Lock,
        keeper: Keeps,
        expected: str | None = None,
    ) -> None:
        """Prepare a round; ``names`` maps the panels' labels to the engine's names."""
        self.question, self.decoding, self.names = question, decoding, dict(names)
        self.panels: tuple[Panel, ...] = tuple(Panel(name=name, state="waiting") for name in names)
        self.over = False
        self.kept: int | None = None
        self.vote: str | None = None
        self.lost = False
        self.expected = expected
        self._engine, self._turn, self._keeper = engine, turn, keeper
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._version = 0

    def start(self) -> Round:
        """Begin answering in the background."""
        threading.Thread(target=self._run, name="round", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ask the running answer to end and the waiting ones not to begin; returns at once."""
        self._stop.set()

    def watch(self, every: float = 0.08) -> Iterator[tuple[Panel, ...]]:
        """Yield the panels whenever they changed, at most once in ``every`` seconds, to the end."""
        seen = -1
        while True:
            with self._news:
                while self._version == seen and not self.over:
                    self._news.wait()
                seen, panels, over = self._version, self.panels, self.over
            yield panels
            if over:
                return
            time.sleep(every)

    def _run(self) -> None:
        try:
            self.kept = self._keeper.question(self)
            for place in range(len(self.panels)):
                self._answer(place)
                self.lost |= not self._keeper.answer(self, self.panels[place])
        finally:
            self.lost |= self.kept is None
            with self._news:
                self.over = True
                self._news.notify_all()

    def _answer(self, place: int) -> None:
        while not self._turn.acquire(timeout=0.1):
            if self._stop.is_set():
                break
        else:
            try:
                if not self._stop.is_set():
                    self._stream(place)
                    return
            finally:
                self._turn.release()
        self._show(place, state="stopped")

    def _stream(self, place: int) -> None:
        began = time.monotonic()
        self._show(place, state="answering")
        first: float | None = None
        try:
            for text in self._engine.stream(
                self.names[self.panels[place].name],
                self.question.sample,
                max_new_tokens=self.decoding.max_new_tokens,
                temperature=self.decoding.temperature,
                seed=self.decoding.seed,
                stop=self._stop,
            ):
                if text and first is None:
                    first = time.monotonic() - began
                self._show(place, text=text, first=first)
        except TriptychError as error:
            self._show(place, state="failed", note=without_paths(str(error), self.question))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            note = "This variant failed in an unexpected way; the server's log has the details."
            self._show(place, state="failed", note=note)
        else:
            state: State = "stopped" if self._stop.is_set() else "done"
            self._show(place, state=state, first=first, seconds=time.monotonic() - began)

    def _show(self, place: int, **changes: Any) -> None:
        with self._news:
            panels = list(self.panels)
            panels[place] = replace(panels[place], **changes)
            self.panels = tuple(panels)
            self._version += 1
            self._news.notify_all()

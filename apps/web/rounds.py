"""One question to several variants: a thread that answers, and panels that show how far it is."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal, Protocol

from apps.web.question import Exchange, Question, conversation, without_paths
from apps.web.voting import Ballot
from studio.errors import DataError, TriptychError
from studio.types import Sample

State = Literal["ready", "waiting", "answering", "done", "stopped", "failed"]
OVER: frozenset[State] = frozenset({"done", "stopped", "failed"})
_SILENT = "It gave no answer before, so it cannot go on."
_UNTOLD = "This variant could not answer; the server's log says why."
_UNEXPECTED = "This variant failed in an unexpected way; the server's log has the details."


class Answerer(Protocol):
    """What the pages need of `studio.variants.Engine`."""

    @property
    def names(self) -> Sequence[str]:
        """The variants that can be asked."""

    def stream(self, name: str, sample: Sample, **decoding: Any) -> Iterator[str]:
        """Yield one variant's text so far, again and again, until it is complete."""

    def stream_together(
        self, names: Sequence[str], sample: Sample, **decoding: Any
    ) -> Iterator[dict[str, str]]:
        """Yield the texts so far of variants that answer in one batch; none of them is `apart`."""

    def apart(self, name: str) -> str:
        """Return why a variant cannot answer in one batch with others, or the empty string."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One variant's side of a round: its text so far, its state, and its times in seconds.

    ``first`` is the time to the first text and ``seconds`` the time to the last word, counted from the
    moment the variant began, so waiting for the others is not held against it. ``together`` is how many
    variants answered in one batch, which takes longer than one of them alone. ``before`` is what was
    asked and answered earlier.
    """

    name: str
    state: State = "ready"
    text: str = ""
    first: float | None = None
    seconds: float | None = None
    together: int = 1
    note: str = ""
    before: tuple[Exchange, ...] = ()

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


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a question comes from: its domain, and the hashes of its question set and of itself in it.

    ``expected`` is the reference answer, if there is one.
    """

    domain: str = ""
    question_set: str = ""
    question: str = ""
    expected: str | None = None


class Keeps(Protocol):
    """What a round needs of `apps.web.keep.Keeper`."""

    def question(self, asked: Round) -> int | None:
        """Keep the question; return its number, or None if it could not be kept."""

    def answer(self, asked: Round, panel: Panel) -> bool:
        """Keep an answer; return whether it is safe."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a round asks, of whom and how.

    ``names`` maps the panels' titles to the engine's names, in the order shown; with ``blind`` the titles are
    letters, and no sentence of the round names a variant. ``before`` is what each panel was asked and
    answered earlier (a panel without it stays silent, if there is any), and ``best`` the title of the one
    that stands for all where only one conversation can be kept.
    """

    question: Question
    names: Mapping[str, str]
    decoding: Decoding = Decoding()
    blind: bool = False
    source: Source = Source()
    before: Mapping[str, tuple[Exchange, ...]] = field(default_factory=dict)
    best: str = ""


class Round:
    """A question on its way: variants answer in one batch where they can, else one after another.

    ``turn`` is the lock that keeps the rounds of different visitors apart, so that times can be compared.
    The thread goes on when nobody watches, until it is done or stopped; ``keeper`` keeps the question
    before the first answer, and every answer as it ends. ``kept`` is the question's number in the store,
    ``vote`` the title or verdict that was given, ``reported`` the places of answers that were called wrong,
    ``ended`` when the last answer was in (monotonic seconds).
    Who gives a verdict holds ``judging``: there is one.
    """

    def __init__(
        self, engine: Answerer, asked: Asked, *, turn: threading.Lock, keeper: Keeps, ballot: Ballot
    ) -> None:
        """Prepare a round."""
        self.asked, self.ballot = asked, ballot
        self.panels: tuple[Panel, ...] = tuple(self._prepared(name) for name in asked.names)
        self.over, self.lost = False, False
        self.kept: int | None = None
        self.vote: str | None = None
        self.reported: set[int] = set()
        self.ended = 0.0
        self.judging = threading.Lock()
        self._engine, self._turn, self._keeper = engine, turn, keeper
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._version = 0

    @property
    def question(self) -> Question:
        """What is asked."""
        return self.asked.question

    @property
    def names(self) -> Mapping[str, str]:
        """The panels' titles, in the order shown, and the engine's names behind them."""
        return self.asked.names

    def start(self) -> Round:
        """Begin answering in the background."""
        threading.Thread(target=self._run, name="round", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ask the running answers to end and the waiting ones not to begin; returns at once."""
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

    def _prepared(self, name: str) -> Panel:
        if not self.asked.before:
            return Panel(name=name, state="waiting")
        before = self.asked.before.get(name, ())
        if not before:
            return Panel(name=name, state="failed", note=_SILENT)
        return Panel(name=name, state="waiting", before=before)

    def _run(self) -> None:
        try:
            self.kept = self._keeper.question(self)
            waiting = [place for place, panel in enumerate(self.panels) if panel.state == "waiting"]
            together = self._batch(waiting)
            if together:
                with self._held() as go:
                    if go:
                        self._answer_together(together)
            for place in waiting:
                if self.panels[place].state == "waiting":
                    self._answer(place)
                self.lost |= not self._keeper.answer(self, self.panels[place])
        finally:
            self.lost |= self.kept is None
            with self._news:
                self.over, self.ended = True, time.monotonic()
                self._news.notify_all()

    def _batch(self, places: Sequence[int]) -> list[int]:
        """Return the places that answer in one batch, or none; why not is told in the server's log.

        In a blind round all do or none does: who waits for whom would tell variants apart.
        """
        if self.asked.before:
            return self._in_turn("each goes on with a conversation of its own")
        reasons = {place: self._apart(place) for place in places}
        mixing = [place for place in places if not reasons[place]]
        for place, reason in reasons.items():
            if reason:
                self._in_turn(f"'{self._name(place)}' answers apart, because {reason}")
        if len(mixing) < 2 or (self.asked.blind and len(mixing) < len(places)):
            return []
        return mixing

    def _apart(self, place: int) -> str:
        try:
            return self._engine.apart(self._name(place))
        except Exception as error:  # it fails again when its turn comes, and is told then
            return str(error)

    def _in_turn(self, why: str) -> list[int]:
        print(f"comparison {self.kept}: {why}", file=sys.stderr)
        return []

    @contextmanager
    def _held(self) -> Iterator[bool]:
        """Wait for the turn, and yield whether work may begin; not if the round was stopped meanwhile."""
        while not self._turn.acquire(timeout=0.1):
            if self._stop.is_set():
                yield False
                return
        try:
            yield not self._stop.is_set()
        finally:
            self._turn.release()

    def _answer_together(self, places: Sequence[int]) -> None:
        began = time.monotonic()
        for place in places:
            self._show(place, state="answering", together=len(places))
        try:
            names = [self._name(place) for place in places]
            grown = self._engine.stream_together(names, self.asked.question.sample, **self._settings())
            for texts in grown:
                spent = time.monotonic() - began
                for place in places:
                    panel, text = self.panels[place], texts[self._name(place)]
                    if text != panel.text:
                        first = spent if panel.first is None else panel.first
                        self._show(place, text=text, first=first, seconds=spent)
        except DataError as error:  # it is about the question, and would be the same for each alone
            for place in places:
                self._show(place, state="failed", note=self._told(error))
            return
        except Exception as error:  # whose fault it is shows when each answers alone
            self._in_turn(f"the variants answer in turn, because {error}")
            for place in places:
                self._show(place, state="waiting", text="", first=None, seconds=None, together=1)
            return
        spent = time.monotonic() - began
        for place in places:
            seconds = self.panels[place].seconds
            self._end(place, seconds=spent if seconds is None else seconds)

    def _answer(self, place: int) -> None:
        with self._held() as go:
            if go:
                self._stream(place)
            else:
                self._end(place)

    def _stream(self, place: int) -> None:
        began = time.monotonic()
        self._show(place, state="answering")
        first: float | None = None
        sample = conversation(self.panels[place].before, self.asked.question)
        try:
            for text in self._engine.stream(self._name(place), sample, **self._settings()):
                if text and first is None:
                    first = time.monotonic() - began
                self._show(place, text=text, first=first)
        except TriptychError as error:
            self._show(place, state="failed", note=self._told(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._show(place, state="failed", note=_UNEXPECTED)
        else:
            self._end(place, first=first, seconds=time.monotonic() - began)

    def _end(self, place: int, **times: float | None) -> None:
        """Show that an answer is complete, or was stopped."""
        self._show(place, state="stopped" if self._stop.is_set() else "done", **times)

    def _settings(self) -> dict[str, Any]:
        made = self.asked.decoding
        return {
            "max_new_tokens": made.max_new_tokens,
            "temperature": made.temperature,
            "seed": made.seed,
            "stop": self._stop,
        }

    def _name(self, place: int) -> str:
        return self.asked.names[self.panels[place].name]

    def _told(self, error: TriptychError) -> str:
        """Return what the panel says of an error; in a blind round nothing that could name a variant."""
        past = [exchange.question for before in self.asked.before.values() for exchange in before]
        told = without_paths(str(error), self.asked.question, *past)
        if not self.asked.blind:
            return told
        print(f"comparison {self.kept}: {error}", file=sys.stderr)
        names = {part.lower() for name in self._engine.names for part in (name, PurePath(name).name)}
        safe = isinstance(error, DataError) and not any(name in told.lower() for name in (*names, "/", "\\"))
        return told if safe else _UNTOLD

    def _show(self, place: int, **changes: Any) -> None:
        with self._news:
            panels = list(self.panels)
            panels[place] = replace(panels[place], **changes)
            self.panels = tuple(panels)
            self._version += 1
            self._news.notify_all()

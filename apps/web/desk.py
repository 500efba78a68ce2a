"""What all pages share: the engine, the store, and each visitor's open round; the only state of the app."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from apps.web.examples import Examples
from apps.web.keep import Keeper
from apps.web.panels import panels_html
from apps.web.question import Question, read_choice
from apps.web.rounds import Answerer, Decoding, Panel, Round
from apps.web.visitors import Visitor, anyone, judge, require
from studio.errors import DataError, TriptychError
from studio.store import VERDICTS, Store

MOST = 4
"""Most variants side by side."""
_REMEMBERED = 500
"""Pages whose round is remembered; the least recently asking one is forgotten."""
LOST = "These answers could not all be kept in the store; the server's log says why."


class Desk:
    """The app's memory while it runs.

    ``visitors`` tells who a request comes from, or raises `apps.web.visitors.Refused`; None lets
    everyone in, as administrator, or as expert where ``blind`` hides the variants' names until a
    verdict is given. Runs, merge files and uploads that pages make stand below the folder ``runs``.
    """

    def __init__(
        self,
        engine: Answerer,
        store: Store,
        examples: Examples,
        *,
        media: Path | None = None,
        runs: Path = Path("runs"),
        blind: bool = False,
        visitors: Callable[[Any], Visitor] | None = None,
    ) -> None:
        """Open the desk over an engine with at least two variants."""
        if len(engine.names) < 2:
            have = ", ".join(engine.names) or "none"
            raise TriptychError(f"comparing needs at least two variants, this engine has {have}")
        taken = sorted(set(engine.names) & set(VERDICTS))
        if taken:
            raise TriptychError(f"a variant cannot be named '{taken[0]}', which is a verdict")
        self.engine, self.store, self.examples = engine, store, examples
        self.media, self.runs, self.blind = media, runs, blind
        self._visitors = visitors or (judge if blind else anyone)
        self._turn = threading.Lock()
        self._rounds: dict[str, Round] = {}
        self._guard = threading.Lock()

    @property
    def labels(self) -> dict[str, str]:
        """Label -> name of the variants that may be compared now: live mixes are their makers' alone."""
        return labels(list(getattr(self.engine, "folders", self.engine.names)))

    def admit(self, request: Any, role: str = "expert") -> Visitor:
        """Return who a request comes from; every handler of every page calls this before all else.

        Raises:
            Refused: nobody who is known, or someone whose role is not enough.
        """
        return require(self._visitors(request), role)

    def open(
        self,
        session: str,
        who: Visitor,
        question: Question,
        chosen: Any,
        decoding: Decoding,
        expected: str | None = None,
    ) -> Round:
        """Begin a round for a visitor; the visitor's round before it is stopped."""
        names = {label: self.labels[label] for label in read_choice(chosen, self.labels, most=MOST)}
        keeper = Keeper(self.store, who.name, self.media)
        return self.start(session, question, names, decoding, keeper, expected)

    def start(
        self,
        session: str,
        question: Question,
        names: Mapping[str, str],
        decoding: Decoding,
        keeper: Keeper,
        expected: str | None = None,
    ) -> Round:
        """Begin a round whose panels have the titles ``names``; the visitor's round before it is stopped."""
        fresh = Round(
            self.engine, question, names, decoding, turn=self._turn, keeper=keeper, expected=expected
        )
        with self._guard:
            before = self._rounds.get(session)
            self._rounds.pop(session, None)
            self._rounds[session] = fresh
            while len(self._rounds) > _REMEMBERED:
                self._rounds.pop(next(iter(self._rounds))).stop()
        if before is not None:
            before.stop()
        return fresh.start()

    def round(self, session: str) -> Round | None:
        """Return the visitor's round, running or finished."""
        return self._rounds.get(session)

    def leave(self, session: str) -> None:
        """Stop what runs for a page that was closed; what it has can still be judged if it comes back."""
        left = self.round(session)
        if left is not None:
            left.stop()

    def board(self, session: str, chosen: Any = None, problem: str = "") -> str:
        """Return the panels as HTML: the visitor's round, or empty panels for newly chosen variants."""
        done = self.round(session)
        if done is None or chosen is not None:
            listed = chosen if isinstance(chosen, list) else []
            names = list(dict.fromkeys(label for label in map(str, listed) if label in self.labels))[:MOST]
        if done is None or (chosen is not None and names != list(done.names)):
            known = {panel.name: panel for panel in done.panels} if done and done.over else {}
            return panels_html([known.get(name, Panel(name=name)) for name in names], problem=problem)
        return panels_html(
            done.panels,
            expected=done.expected,
            matches=[_same(panel.text, done.expected) for panel in done.panels],
            votable=done.over and done.kept is not None and any(p.state == "done" for p in done.panels),
            vote=done.vote,
            problem=problem or (LOST if done.over and done.lost else ""),
        )

    def vote(self, session: str, who: Visitor, choice: str) -> None:
        """Keep a visitor's verdict on the finished round: a panel's place, or a key of `VERDICTS`.

        Raises:
            DataError: there is nothing to judge, it was judged before, or the verdict is unknown.
        """
        done = self.round(session)
        if done is None or not done.over or done.kept is None:
            raise DataError("There is no finished comparison to judge.")
        places = {str(place): panel for place, panel in enumerate(done.panels) if panel.state != "failed"}
        if choice not in places and choice not in VERDICTS:
            raise DataError("That is not a verdict that this page offers.")
        chosen = places[choice].name if choice in places else choice
        with self._guard:
            if done.vote is not None:
                raise DataError("This comparison was judged before.")
            try:
                self.store.vote(done.kept, done.names.get(chosen, chosen), rater=who.name)
            except TriptychError as error:
                print(error, file=sys.stderr)
                raise DataError("The verdict could not be kept; try again.") from None
            done.vote = chosen


def first_choice(names: Sequence[str]) -> list[str]:
    """Return the variants chosen when the page opens: the newest three, or all if there are fewer."""
    return list(names)[-3:]


def labels(names: Sequence[str]) -> dict[str, str]:
    """Return label -> name; of a name that is a path, the label is as few last parts as tell it apart."""
    shown: dict[str, str] = {}
    for name in names:
        parts = PurePath(name).parts[1:] if PurePath(name).is_absolute() else (name,)
        tails = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        shown[next((tail for tail in tails if tail not in shown), f"{tails[-1]} ({len(shown) + 1})")] = name
    return shown


def _same(text: str, expected: str | None) -> bool:
    from studio.metrics.exact_match import score

    return bool(expected) and score([text], [expected or ""]) == 1.0

"""What the store's votes say, counted once for each state of the store."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

from apps.web.desk import Desk, labels
from studio.errors import DataError
from studio.ranking import Judgement, judgements
from studio.results import Results, results

ALL = "all"
_REMEMBERED = 24


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which votes count: ``part`` is `ALL`, ``domain:NAME`` or ``group:NAME``; ``blind``: only blind ones."""

    part: str = ALL
    blind: bool = False

    def takes(self, one: Judgement) -> bool:
        """Return whether a verdict counts."""
        kind, _, name = self.part.partition(":")
        return (self.part == ALL or getattr(one, kind) == name) and (one.blind or not self.blind)


class Counted:
    """Results by choice of votes, as long as the store stays as it is.

    Reading ten thousand votes and counting them takes a second or two; a look at the store's state takes
    milliseconds.
    """

    def __init__(self, desk: Desk) -> None:
        """Count nothing yet."""
        self._store = desk.store
        self._guard = threading.Lock()
        self._state: tuple[Any, ...] | None = None
        self._votes: list[Judgement] = []
        self._flagged = 0
        self._known: dict[Choice, Results] = {}

    def parts(self) -> list[tuple[str, str]]:
        """Return what may be chosen: words and value."""
        with self._guard:
            self._read()
            domains = sorted({one.domain for one in self._votes} - {""})
            groups = sorted({one.group for one in self._votes} - {""})
        found = [("all votes", ALL)]
        found += [(f"domain {name}", f"domain:{name}") for name in domains]
        return found + [(f"raters {name}", f"group:{name}") for name in groups]

    def choice(self, part: Any, blind: Any) -> Choice:
        """Return the choice that a page sent; `DataError` if there is no such part."""
        if part not in [value for _, value in self.parts()]:
            raise DataError("There are no such votes any more; load the page again.")
        return Choice(part=str(part), blind=bool(blind))

    def results(self, choice: Choice) -> Results:
        """Return the results of the chosen votes as they are in the store now."""
        with self._guard:
            self._read()
            if choice not in self._known:
                while len(self._known) >= _REMEMBERED:
                    self._known.pop(next(iter(self._known)))
                flagged = self._flagged if choice == Choice() else 0
                chosen = [one for one in self._votes if choice.takes(one)]
                self._known[choice] = results(chosen, flagged=flagged)
            return self._known[choice]

    def _read(self) -> None:
        state = self._store.state()
        if state == self._state:
            return
        votes = self._store.votes()
        found = judgements(self._store.comparisons(), votes)
        shown = {
            name: label for label, name in labels(sorted({v for one in found for v in one.variants})).items()
        }
        self._votes = [
            replace(
                one,
                variants=tuple(shown[name] for name in one.variants),
                choice=shown.get(one.choice, one.choice),
            )
            for one in found
        ]
        self._flagged, self._known, self._state = len(votes) - len(found), {}, state

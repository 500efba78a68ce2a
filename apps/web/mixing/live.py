"""Mixes that answer at once: each visitor's is a live variant of the engine until others need its place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from apps.web.desk import Desk, labels
from apps.web.mixing.recipe import Mix, towers_in
from mergers import merged_factors
from studio.adapters import is_adapter
from studio.errors import DataError

_KEPT = 4
"""Live mixes kept in memory; the one used least recently is made again when it is asked."""
_REMEMBERED = 500
"""Pages whose mix is known."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A visitor's mix as the engine answers it: the variant's name, and the seconds that making it took."""

    mix: Mix
    name: str
    seconds: float


class Mixes:
    """Every visitor's mix, by session."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none."""
        self.desk = desk
        self._standing: OrderedDict[str, Standing] = OrderedDict()
        self._wanted: OrderedDict[str, Mix] = OrderedDict()
        self._number = 0
        self._lock = threading.Lock()

    @property
    def experts(self) -> dict[str, Path]:
        """Label -> folder of the adapters that can be mixed."""
        folders = getattr(self.desk.engine, "folders", {})
        named = labels(list(folders))
        found = {label: folders[name] for label, name in named.items()}
        return {label: path for label, path in found.items() if path is not None and is_adapter(path)}

    @property
    def base(self) -> Path:
        """The model that all experts stand on."""
        return Path(self.desk.engine.base)  # type: ignore[attr-defined]

    def towers(self, mix: Mix) -> tuple[str, ...]:
        """Return the towers that the mix's experts change."""
        experts = self.experts
        return towers_in([experts[name] for name in mix.experts if name in experts])

    def wanted(self, session: str) -> Mix | None:
        """Return the mix that a visitor's page shows."""
        return self._wanted.get(session)

    def again(self, session: str) -> Standing:
        """Return the visitor's mix as it answers now, made once more if others needed its place.

        Raises:
            DataError: the visitor has no mix, or as `make`.
        """
        mix = self.wanted(session)
        if mix is None:
            raise DataError("There is no mix yet; choose experts, or load the page again.")
        return self.make(session, mix)

    def make(self, session: str, mix: Mix) -> Standing:
        """Let a mix answer from now on as the visitor's live variant.

        Raises:
            TriptychError: what `triptych merge` would say of it.
        """
        began = time.monotonic()
        with self._lock:
            before = self._standing.get(session)
            if before is not None and before.mix == mix:
                self._standing.move_to_end(session)
                return before
            experts = self.experts
            missing = next((name for name in mix.experts if name not in experts), None)
            if missing is not None:
                raise DataError(f"There is no expert '{missing}' any more; load the page again.")
            factors = merged_factors(mix.spec(experts, self.base))
            if before is None:
                self._number += 1
            name = before.name if before is not None else f"mix of visitor {self._number}"
            self.desk.engine.live(name, factors)  # type: ignore[attr-defined]
            made = Standing(mix=mix, name=name, seconds=time.monotonic() - began)
            self._standing[session] = made
            self._standing.move_to_end(session)
            self._wanted[session] = mix
            self._wanted.move_to_end(session)
            while len(self._wanted) > _REMEMBERED:
                self._wanted.popitem(last=False)
            while len(self._standing) > _KEPT:
                gone = self._standing.popitem(last=False)[1]
                self.desk.engine.remove(gone.name)  # type: ignore[attr-defined]
            return made

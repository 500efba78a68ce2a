"""Keeping what was asked, answered and judged: rows in the store, pictures and recordings beside it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.web.question import Question
from apps.web.rounds import Panel, Round
from studio.files import atomic_write, sha256_file
from studio.store import Store


class Keeper:
    """Writes rounds to the store while they run, so that nothing is lost when the app ends.

    The store knows media by their SHA-256; with ``media`` a folder, a copy of each stands there as
    ``<sha256><suffix>``. ``who`` is the visitor's pseudonym, and ``about`` what else is to be kept of the
    questions (`studio.store.Store.add_comparison`), as the set that they are from.
    """

    def __init__(
        self, store: Store, who: str, media: Path | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Keep rounds of one visitor."""
        self.store, self.who, self.media, self.about = store, who, media, dict(about or {})

    def question(self, asked: Round) -> int | None:
        """Keep a round's question and return its number, or None (told in the log) if that failed."""
        decoding = asked.decoding
        try:
            return self.store.add_comparison(
                asked.question.text,
                list(asked.names.values()),
                media=[self._medium(path) for path in _media(asked.question)],
                seed=decoding.seed,
                decoding={
                    "max_new_tokens": decoding.max_new_tokens,
                    "temperature": decoding.temperature,
                },
                asker=self.who,
                **self.about,
            )
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return None

    def answer(self, asked: Round, panel: Panel) -> bool:
        """Keep one variant's answer; return False (told in the log) if that failed."""
        if asked.kept is None or panel.state not in ("done", "stopped"):
            return True
        latency = None if panel.seconds is None else panel.seconds * 1000
        try:
            self.store.add_answer(asked.kept, asked.names[panel.name], panel.text, latency_ms=latency)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return False
        return True

    def _medium(self, path: Path) -> str:
        digest = sha256_file(path)
        if self.media is not None:
            target = self.media / f"{digest}{path.suffix.lower()}"
            if not target.exists():
                self.media.mkdir(parents=True, exist_ok=True)
                atomic_write(target, path.read_bytes())
        return digest


def _media(question: Question) -> list[Path]:
    return [path for path in (question.picture, question.sound) if path is not None]

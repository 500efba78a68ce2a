"""Keeping what was asked, answered and judged: rows in the store, pictures and recordings beside it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.web.question import Question
from apps.web.rounds import Asked, Panel, Round
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

    def question(self, opened: Round) -> int | None:
        """Keep a round's question and return its number, or None (told in the log) if that failed."""
        asked = opened.asked
        try:
            return self.store.add_comparison(
                asked.question.text,
                list(asked.names.values()),
                media=self._media(asked.question),
                seed=asked.decoding.seed,
                decoding={
                    "max_new_tokens": asked.decoding.max_new_tokens,
                    "temperature": asked.decoding.temperature,
                },
                turns=self._turns(asked),
                asker=self.who,
                **{
                    "domain": asked.source.domain,
                    "question_set": asked.source.question_set,
                    "question": asked.source.question,
                    "blind": asked.blind,
                    **self.about,
                },
            )
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return None

    def answer(self, opened: Round, panel: Panel) -> bool:
        """Keep one variant's answer; return False (told in the log) if that failed."""
        if opened.kept is None or panel.state not in ("done", "stopped"):
            return True
        latency = None if panel.seconds is None else panel.seconds * 1000
        try:
            name = opened.asked.names[panel.name]
            self.store.add_answer(opened.kept, name, panel.text, latency_ms=latency)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return False
        return True

    def _turns(self, asked: Asked) -> list[Mapping[str, Any]]:
        """Return what was said before; an answer's ``answers`` are those of all variants by name."""
        if not asked.before:
            return []
        turns: list[Mapping[str, Any]] = []
        for number, past in enumerate(asked.before[asked.best]):
            turns.append({"role": "user", "text": past.question.text, "media": self._media(past.question)})
            said = {asked.names[title]: before[number].answer for title, before in asked.before.items()}
            turns.append({"role": "assistant", "text": past.answer, "media": [], "answers": said})
        return turns

    def _media(self, question: Question) -> list[str]:
        return [self._medium(path) for path in (question.picture, question.sound) if path is not None]

    def _medium(self, path: Path) -> str:
        digest = sha256_file(path)
        if self.media is not None:
            target = self.media / f"{digest}{path.suffix.lower()}"
            if not target.exists():
                self.media.mkdir(parents=True, exist_ok=True)
                atomic_write(target, path.read_bytes())
        return digest

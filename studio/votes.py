"""Verdicts as data to learn from: preferences, answers that were bad, and corrections.

    counts = export_votes(store, Path("runs/triptych.media"), Path("preferences"))

``preferences.jsonl`` has a row for each answer that lost against the one that was chosen (``chosen`` and
``rejected``); ``labels.jsonl`` a row for each answer called good or bad alone (``label`` true or false: KTO,
Ethayarajh et al. 2024, arXiv:2402.01306); ``corrections.jsonl`` the answers that people wrote
instead. Raters are told apart by a pseudonym that is drawn anew for every export. The recipe dpo takes the
folder as its data, the recipe sft the corrections.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.data import write_jsonl
from studio.errors import DataError
from studio.files import atomic_folder
from studio.kept import Comparison, Vote
from studio.media import kind_of
from studio.store import Store
from studio.types import Image, Part, Sample, Sound, Text, Turn

FILES = ("preferences", "labels", "corrections")


def export_votes(store: Store, media: Path | None, out: Path) -> dict[str, int]:
    """Write what the votes of ``store`` teach into the new folder ``out``; return rows by file.

    ``media`` is where the app kept pictures and recordings, by their SHA-256. Flagged votes are left out, and
    counted under ``flagged``; votes whose media are gone under ``media gone``.

    Raises:
        DataError: if ``out`` is there already, or there is nothing to write.
    """
    if out.exists():
        raise DataError(f"{out} is there already; name a new folder")
    asked = {one.id: one for one in store.comparisons()}
    counts = dict.fromkeys((*FILES, "flagged", "media gone"), 0)
    salt = secrets.token_hex(16)
    with atomic_folder(out) as folder:
        files = KeptMedia(media, folder / "media")
        rows: dict[str, list[Sample]] = {name: [] for name in FILES}
        for vote in store.votes():
            if vote.flagged:
                counts["flagged"] += 1
                continue
            comparison = asked[vote.comparison]
            try:
                turns = conversation_of(comparison, files, vote.choice)
            except FileNotFoundError:
                counts["media gone"] += 1
                continue
            for name, sample in _rows(comparison, vote, turns, salt):
                rows[name].append(sample)
        for name, samples in rows.items():
            counts[name] = len(samples)
            if samples:
                write_jsonl(folder / f"{name}.jsonl", samples)
        if not any(rows.values()):
            raise DataError(f"store '{store.url}' holds no vote that teaches anything; nothing was written")
    return counts


def _rows(
    comparison: Comparison, vote: Vote, turns: tuple[Turn, ...], salt: str
) -> Iterator[tuple[str, Sample]]:
    """Yield the rows that one vote gives, with the file each belongs to."""
    said = {answer.variant: answer.text for answer in comparison.answers if answer.text.strip()}
    rater = hashlib.sha256(f"{salt}{vote.rater}".encode()).hexdigest()[:12]
    told: dict[str, Any] = {"vote": vote.choice if vote.choice not in said else "best", "rater": rater}
    if vote.reasons:
        told["reasons"] = list(vote.reasons)
    groups = {"domain": comparison.domain} if comparison.domain else {}

    def row(after: tuple[Turn, ...] = (), extra: Mapping[str, Any] | None = None, **more: Any) -> Sample:
        return Sample(
            turns=(*turns, *after),
            file=Path(f"comparison {comparison.id}"),
            source="votes",
            groups=groups,
            extra={**told, **(extra or {})},
            **more,
        )

    if vote.choice in said:
        best = said[vote.choice]
        yield "labels", row((_answer(best),), {"label": True})
        for text in dict.fromkeys(said.values()):
            if text != best:
                yield "preferences", row(chosen=(_answer(best),), rejected=(_answer(text),))
    elif vote.choice == "both bad":
        for text in dict.fromkeys(said.values()):
            yield "labels", row((_answer(text),), {"label": False})
    if vote.correction.strip():
        yield "corrections", row((_answer(vote.correction.strip()),))


def conversation_of(comparison: Comparison, files: KeptMedia, chosen: str) -> tuple[Turn, ...]:
    """Return the conversation up to the question as the chosen variant had it, media among the files."""
    turns = []
    for before in comparison.turns:
        text = before.get("answers", {}).get(chosen, before.get("text", ""))
        parts = (*map(files.part, before.get("media", ())), *_text(str(text)))
        turns.append(Turn(role=before["role"], parts=parts))
    parts = (*map(files.part, comparison.media), *_text(comparison.prompt))
    return (*turns, Turn(role="user", parts=parts))


def _text(text: str) -> tuple[Text, ...]:
    return (Text(text=text),) if text else ()


def _answer(text: str) -> Turn:
    return Turn(role="assistant", parts=(Text(text=text),))


class KeptMedia:
    """Copies media by hash from where the app kept them, each once."""

    def __init__(self, source: Path | None, target: Path) -> None:
        """Copy from the folder ``source`` into ``target``, which is made with the first medium."""
        self._target = target
        found = source.iterdir() if source is not None and source.is_dir() else ()
        self._there = {path.stem: path for path in found}

    def part(self, digest: str) -> Part:
        """Return the part that shows a medium; `FileNotFoundError` if it was not kept."""
        if digest not in self._there:
            raise FileNotFoundError(digest)
        source = self._there[digest]
        path = self._target / source.name
        if not path.exists():
            self._target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
        return Image(path=path) if "picture" in kind_of(path) else Sound(path=path)

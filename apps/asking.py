"""Every variant asked every question, and its answers kept some batches at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apps.answer_cache import AnswerCache, Contents
from studio.data import check_media
from studio.log import Log
from studio.types import Sample

BATCHES_AT_A_TIME = 8  # answers are kept after so many batches: what an interruption can cost
_OFTEN, _WORTH = 60.0, 20  # seconds between two pauses, and how many times a pause's own length


class Answerer(Protocol):
    """What evaluation needs of `studio.variants.Engine`."""

    @property
    def names(self) -> Sequence[str]:
        """The variants."""

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        """Return one variant's answers, in the samples' order."""

    def fingerprint(self, name: str) -> str:
        """Return a hash of all that decides one variant's answers."""

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        """Return log p of given answers, and their lengths in tokens."""


def places(engine: Any) -> dict[str, dict[str, str | None]]:
    """Return where the weights of variants lie: ``base``, and ``folder`` or None; live mixes lie nowhere."""
    found: dict[str, dict[str, str | None]] = {}
    for name in engine.names:
        of = getattr(engine, "engine", None)  # of several engines asked as one
        one = of(name) if callable(of) else engine
        folders = getattr(one, "folders", {})
        if name in folders:
            folder = folders[name]
            found[name] = {
                "base": str(Path(one.base).resolve()),
                "folder": None if folder is None else str(Path(folder).resolve()),
            }
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of one domain, with the key its answers are kept under.

    ``of`` is the number of the domain's row that it paraphrases, or None for a row itself.
    """

    domain: str
    sample: Sample
    key: str
    of: int | None = None


def rows_of(
    data: Mapping[str, Sequence[Sample]],
    again: Mapping[str, Sequence[Sequence[Sample]]],
    contents: Contents,
    log: Log,
) -> list[Row]:
    """Return the questions of all domains, and after each domain's those ``again`` in other words.

    Raises:
        MediaError: media that are missing or unreadable.
    """
    found = []
    try:
        for domain, samples in data.items():
            found += [Row(domain=domain, sample=sample, key=contents.key(sample)) for sample in samples]
            for of, others in enumerate(again.get(domain, ())):
                found += [Row(domain=domain, sample=each, key=contents.key(each), of=of) for each in others]
    except OSError:  # a file is missing or unreadable: name them all
        check_media([sample for samples in data.values() for sample in samples], log)
        raise
    return found


def ask(
    engine: Answerer,
    rows: Sequence[Row],
    kept: Mapping[str, AnswerCache],
    log: Log,
    *,
    batch_size: int,
    max_new_tokens: int,
    pause: Callable[[], object] | None = None,
) -> dict[str, Exception]:
    """Ask every variant what it was not asked before, and keep its answers some batches at a time.

    Args:
        engine: the variants.
        rows: the questions.
        kept: each variant's answers, old and new; equal variants share theirs.
        log: is told the stages, and how many answers were reused.
        batch_size: questions answered together.
        max_new_tokens: longest answer.
        pause: is called now and then while answers are missing. With it a variant that fails is put aside for
            the others to go on; without it its error is raised.

    Returns:
        The errors of variants that failed.
    """
    missing: dict[str, list[Row]] = {}
    asked: set[tuple[int, str]] = set()
    for name, cache in kept.items():
        missing[name] = []
        for row in rows:
            if row.key not in cache and (id(cache), row.key) not in asked:
                asked.add((id(cache), row.key))
                missing[name].append(row)
    total = len(rows) * len(kept)
    if len(asked) < total:
        log.say(f"reused {total - len(asked)} of {total} answers")
    check_media([row.sample for left in missing.values() for row in left], log)
    step = batch_size * BATCHES_AT_A_TIME
    settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    failed: dict[str, Exception] = {}
    paused, length = time.monotonic(), 0.0
    todo = [name for name, left in missing.items() if left]
    for name in todo:
        left = missing[name]
        log.stage(f"evaluating {name}", len(left))
        for start in range(0, len(left), step):
            chunk = left[start : start + step]
            try:
                said = engine.answers(name, [row.sample for row in chunk], log=log, **settings)
            except (ValueError, RuntimeError, OSError) as error:
                if pause is None:
                    raise
                failed[name] = error
                log.say(f"{name} failed, the others go on: {error}")
                break
            kept[name].add([row.key for row in chunk], said)
            ended = start + step >= len(left)
            more = name != todo[-1] or not ended
            since = time.monotonic() - paused
            if pause and more and (ended or since > max(_OFTEN, _WORTH * length)):
                began = time.monotonic()
                pause()
                paused = time.monotonic()
                length = paused - began
    return failed

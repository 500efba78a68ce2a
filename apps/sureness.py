"""How sure a variant is: the probabilities of its own answers and of the references, kept by content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from apps.answer_cache import AnswerCache
from apps.asking import Answerer, Row
from studio.log import Log

COLUMNS = ("confidence", "surprise", "tokens")


def sureness(
    engine: Answerer,
    name: str,
    rows: Sequence[Row],
    answers: Sequence[str],
    modules: Mapping[str, ModuleType],
    kept: AnswerCache,
    log: Log | None,
) -> dict[str, list[Any]]:
    """Return what metrics need of a variant's probabilities [N]: ``confidence`` in its answers, and its
    ``surprise`` in nats at the references of so many ``tokens``.

    Without a log nothing is computed: columns of which something is not kept are left out.
    """
    wanted = {column for module in modules.values() for column in getattr(module, "NEEDS", ())}
    found: dict[str, list[Any]] = {}
    if "confidence" in wanted:
        told = _likely(engine, name, rows, answers, kept, log)
        if told is not None:
            found["confidence"] = [min(1.0, math.exp(p)) for p, _ in told]
    if wanted & {"surprise", "tokens"}:
        told = _likely(engine, name, rows, [row.sample.answer for row in rows], kept, log)
        if told is not None:
            found["surprise"], found["tokens"] = [-p for p, _ in told], [count for _, count in told]
    return found


def _likely(
    engine: Answerer,
    name: str,
    rows: Sequence[Row],
    texts: Sequence[str],
    kept: AnswerCache,
    log: Log | None,
) -> list[tuple[float, int]] | None:
    """Return log p and tokens of a text for every row, computing what is not kept."""
    keys = [
        hashlib.sha256(f"{row.key} {text}".encode()).hexdigest()
        for row, text in zip(rows, texts, strict=True)
    ]
    missing = list({key: at for at, key in enumerate(keys) if key not in kept}.values())
    if missing:
        if log is None:
            return None
        log.stage(f"probabilities of {name}", len(missing))
        samples, said = [rows[at].sample for at in missing], [texts[at] for at in missing]
        told = engine.log_probs(name, samples, said, log=log)
        kept.add([keys[at] for at in missing], [json.dumps(pair) for pair in told])
    pairs = [json.loads(kept[key]) for key in keys]
    return [(float(p), int(count)) for p, count in pairs]

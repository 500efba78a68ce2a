"""Every variant on every domain: answers, scores with intervals, and the files that show them.

results = evaluate(engine, {"textiles": samples}, ["exact_match"], log, out=Path("runs/eval"))
results["textiles"]["ties"]  # {"metric": "exact_match", "value": 0.93, "n": 200, "ci": [0.89, 0.96], ...}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from apps.answer_cache import AnswerCache, Contents
from apps.figures import by_sample, columns, compare, measured, scores_of
from studio import plugins
from studio.data import check_media
from studio.errors import DataError, TriptychError
from studio.files import atomic_write
from studio.log import Log
from studio.types import Sample

Results = dict[str, dict[str, dict[str, Any]]]
"""``results[domain][variant]``: ``metric``, ``value``, ``n``, ``ci`` and ``higher_is_better`` of the first
metric, and under ``metrics`` the same of every metric by name."""

_BATCHES_AT_A_TIME = 8  # answers are kept after so many batches: what an interruption can cost


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


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One sample of one domain, with the key its answers are kept under."""

    domain: str
    sample: Sample
    key: str


def evaluate(
    engine: Answerer,
    data: Mapping[str, Sequence[Sample]],
    metrics: Sequence[str],
    log: Log,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 48,
    cache: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    baseline: str = "",
    clusters: str = "",
) -> Results:
    """Ask every variant of ``engine`` every sample, greedily, and score the answers.

    Args:
        engine: the variants.
        data: domain -> samples whose last turn is the reference answer.
        metrics: names of metrics; the first one is the headline.
        log: is told the stages, and how many answers were reused.
        batch_size: samples answered together; it does not change the answers.
        max_new_tokens: longest answer, in tokens.
        cache: folder of answers already given; what it holds is not asked again, whatever it was called.
        out: folder for ``scores.json`` (``{variant: {"domain.metric": {value, low, high, n}}}``),
            ``evaluation.json`` (results, fingerprints, settings) and ``samples.jsonl`` (one row per sample
            and variant), each written whole; nothing is written without it.
        seed: of the bootstrap intervals.
        baseline: the variant that the others are compared with, sample by sample (`studio.paired`); none if
            empty. Cells then hold ``against``: ``value``, ``ci`` and ``p`` of the difference.
        clusters: the group (a speaker, a patient) whose samples belong together in intervals and comparisons.

    Raises:
        DataError: rows without a reference answer, or media that do not decode: before the first answer.
        UnknownName: a metric that does not exist: before the first answer.
        DataError: a metric that does not fit the data: its sentence, with the domain.
    """
    modules = {name: plugins.load("metrics", name) for name in metrics}
    if not modules or not data or not engine.names:
        raise TriptychError("an evaluation needs at least one variant, one domain and one metric")
    _require_references(data)
    decoding = {"max_new_tokens": max_new_tokens, "temperature": 0.0}
    contents = Contents(decoding)
    rows = _rows(data, contents, log)
    prints = {name: engine.fingerprint(name) for name in engine.names}
    caches = {digest: AnswerCache(cache, digest) for digest in set(prints.values())}
    kept = {name: caches[digest] for name, digest in prints.items()}  # equal variants share their answers
    _answer(engine, rows, kept, log, batch_size=batch_size, max_new_tokens=max_new_tokens)

    sure = {digest: AnswerCache(cache, f"{digest}-likelihood") for digest in caches}
    results: Results = {}
    lines: list[str] = []
    for domain in data:
        own = [row for row in rows if row.domain == domain]
        references = [row.sample.answer for row in own]
        said = {name: [kept[name][row.key] for row in own] for name in engine.names}
        rows_told = columns([row.sample for row in own], modules)
        told = {
            name: {**rows_told, **sureness(engine, name, own, answers, modules, sure[prints[name]], log)}
            for name, answers in said.items()
        }
        marks = [row.sample.groups.get(clusters, "") for row in own] if clusters else None
        try:
            results[domain] = {
                name: measured(list(modules), answers, references, told[name], seed, marks)
                for name, answers in said.items()
            }
            if baseline:
                compare(results[domain], baseline, said, references, told, seed, marks)
            values = {
                name: by_sample(modules, answers, references, told[name]) for name, answers in said.items()
            }
        except ValueError as error:
            raise DataError(f"domain '{domain}': {error}") from None
        for at, row in enumerate(own):
            for name in engine.names:
                scores = {metric: each[at] for metric, each in values[name].items()}
                line = _sample_row(row, name, kept[name][row.key], scores, contents)
                lines.append(json.dumps({**line, "variant_sha256": prints[name], "seed": seed}))
    if out is not None:
        about = {
            "metrics": list(modules),
            "decoding": decoding,
            "seed": seed,
            "baseline": baseline,
            "clusters": clusters,
            "variants": prints,
            "data": {domain: _data_hash([row for row in rows if row.domain == domain]) for domain in data},
            "results": results,
        }
        atomic_write(out / "samples.jsonl", "\n".join(lines) + "\n")
        atomic_write(out / "evaluation.json", json.dumps(about, indent=2) + "\n")
        atomic_write(out / "scores.json", json.dumps(scores_of(results), indent=2) + "\n")
    return results


def _require_references(data: Mapping[str, Sequence[Sample]]) -> None:
    for domain, samples in data.items():
        if not samples:
            raise DataError(f"domain '{domain}' holds no samples")
        if wrong := [sample.where for sample in samples if not sample.answer]:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DataError(
                f"{wrong[0]}{more}: no reference to score against; the last message must be 'assistant'"
            )


def _rows(data: Mapping[str, Sequence[Sample]], contents: Contents, log: Log) -> list[_Row]:
    try:
        return [
            _Row(domain=domain, sample=sample, key=contents.key(sample))
            for domain, samples in data.items()
            for sample in samples
        ]
    except OSError:  # a file is missing or unreadable: name them all
        check_media([sample for samples in data.values() for sample in samples], log)
        raise


def _answer(
    engine: Answerer,
    rows: Sequence[_Row],
    kept: Mapping[str, AnswerCache],
    log: Log,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> None:
    """Ask every variant what it was not asked before, and keep its answers some batches at a time."""
    missing: dict[str, list[_Row]] = {}
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
    step = batch_size * _BATCHES_AT_A_TIME
    settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    for name, left in missing.items():
        if left:
            log.stage(f"evaluating {name}", len(left))
        for chunk in (left[at : at + step] for at in range(0, len(left), step)):
            said = engine.answers(name, [row.sample for row in chunk], log=log, **settings)
            kept[name].add([row.key for row in chunk], said)


def _sample_row(
    row: _Row, variant: str, output: str, scores: Mapping[str, float], contents: Contents
) -> dict[str, Any]:
    media = [*(image.path for image in row.sample.images), *(sound.path for sound in row.sample.sounds)]
    return {
        "domain": row.domain,
        "where": row.sample.where,
        "prompt": "\n".join(turn.text for turn in row.sample.prompt if turn.text),
        "media": [{"path": str(path), "sha256": contents.medium(path)} for path in media],
        "groups": dict(row.sample.groups),
        "reference": row.sample.answer,
        "variant": variant,
        "output": output,
        "scores": dict(scores),
    }


def _data_hash(rows: Sequence[_Row]) -> dict[str, Any]:
    told = "\n".join(f"{row.key} {json.dumps(row.sample.answer)}" for row in rows)
    return {"n": len(rows), "sha256": hashlib.sha256(told.encode()).hexdigest()}


def sureness(
    engine: Answerer,
    name: str,
    rows: Sequence[_Row],
    answers: Sequence[str],
    modules: Mapping[str, ModuleType],
    kept: AnswerCache,
    log: Log,
) -> dict[str, list[Any]]:
    """Return what metrics need of a variant's probabilities [N]: ``confidence`` in its answers, and its
    ``surprise`` in nats at the references of so many ``tokens``."""
    wanted = {column for module in modules.values() for column in getattr(module, "NEEDS", ())}
    found: dict[str, list[Any]] = {}
    if "confidence" in wanted:
        found["confidence"] = [
            min(1.0, math.exp(p)) for p, _ in _likely(engine, name, rows, answers, kept, log)
        ]
    if wanted & {"surprise", "tokens"}:
        references = [row.sample.answer for row in rows]
        told = _likely(engine, name, rows, references, kept, log)
        found["surprise"], found["tokens"] = [-p for p, _ in told], [count for _, count in told]
    return found


def _likely(
    engine: Answerer, name: str, rows: Sequence[_Row], texts: Sequence[str], kept: AnswerCache, log: Log
) -> list[tuple[float, int]]:
    """Return log p and tokens of a text for every row, computing what is not kept."""
    keys = [
        hashlib.sha256(f"{row.key} {text}".encode()).hexdigest()
        for row, text in zip(rows, texts, strict=True)
    ]
    missing = list({key: at for at, key in enumerate(keys) if key not in kept}.values())
    if missing:
        log.stage(f"probabilities of {name}", len(missing))
        samples, said = [rows[at].sample for at in missing], [texts[at] for at in missing]
        told = engine.log_probs(name, samples, said, log=log)
        kept.add([keys[at] for at in missing], [json.dumps(pair) for pair in told])
    pairs = [json.loads(kept[key]) for key in keys]
    return [(float(p), int(count)) for p, count in pairs]

"""Every variant on every domain: answers, scores with intervals, and the files that show them.

results = evaluate(engine, {"textiles": samples}, ["exact_match"], log, out=Path("runs/eval"))
results["textiles"]["ties"]  # {"metric": "exact_match", "value": 0.93, "n": 200, "ci": [0.89, 0.96], ...}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from apps.answer_cache import AnswerCache, Contents
from apps.asking import Answerer, Row, ask, places, rows_of
from apps.evaluation_folder import data_hash, write_evaluation
from apps.figures import columns, scores_of
from apps.judging import Judging
from apps.metric_fit import check_fit
from apps.row_checks import check_clusters, check_groups, require_judgement, require_references
from apps.scoring import Results, Scored, Setting, score_domain
from studio import plugins
from studio.errors import TriptychError
from studio.log import Log
from studio.runs import versions
from studio.types import Sample

__all__ = ["Answerer", "Results", "evaluate"]


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
    again: Mapping[str, Sequence[Sequence[Sample]]] | None = None,
    judging: Judging | None = None,
    by: Sequence[str] = (),
) -> Results:
    """Ask every variant of ``engine`` every sample, greedily, and score the answers.

    An evaluation that is interrupted, or in which a variant fails, leaves in ``out`` what is known so far,
    marked ``partial``; the same call goes on from the answers in ``cache``.

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
            and variant), written together; nothing is written without it.
        seed: of the bootstrap intervals.
        baseline: the variant that the others are compared with, sample by sample (`studio.paired`); none if
            empty. Cells then hold ``against``: ``value``, ``ci`` and ``p`` of the difference.
        clusters: the group (a speaker, a patient) whose samples belong together in intervals and comparisons.
        again: domain -> for each of its samples the same question in other words, for the metric consistency.
        judging: the model that gives each answer its ``judgement``.
        by: groups whose values each get figures of their own, under ``groups`` of every metric's.

    Raises:
        DataError: rows without a reference answer, media that do not decode, a metric that does not fit a
            domain, or rows without the group of ``clusters``: before the first answer.
        UnknownName: a metric that does not exist: before the first answer.
        TriptychError: a variant failed; with ``out`` after the others have answered.
    """
    modules = {name: plugins.load("metrics", name) for name in metrics}
    if not modules or not data or not engine.names:
        raise TriptychError("an evaluation needs at least one variant, one domain and one metric")
    require_references(data)
    if clusters:
        check_clusters(data, clusters, log)
    check_groups(data, by, log)
    for domain, samples in data.items():
        given = [*(["paraphrase"] if again else []), *(["judgement"] if judging else [])]
        if not judging and any("judgement" in getattr(each, "NEEDS", ()) for each in modules.values()):
            require_judgement(domain, samples)
        references = [sample.answer for sample in samples]
        check_fit(domain, modules, references, columns(samples, modules), given=given)
    decoding = {"max_new_tokens": max_new_tokens, "temperature": 0.0}
    contents = Contents(decoding)
    rows = rows_of(data, again or {}, contents, log)
    prints = {name: engine.fingerprint(name) for name in engine.names}
    caches = {digest: AnswerCache(cache, digest) for digest in set(prints.values())}
    kept = {name: caches[digest] for name, digest in prints.items()}  # equal variants share their answers
    setting = Setting(
        engine=engine,
        modules=modules,
        contents=contents,
        prints=prints,
        kept=kept,
        sure={digest: AnswerCache(cache, f"{digest}-likelihood") for digest in caches},
        seed=seed,
        baseline=baseline,
        clusters=clusters,
        judging=judging,
        by=tuple(by),
    )
    failed: dict[str, Exception] = {}

    def write(scored: Mapping[str, Scored], partial: bool) -> None:
        if out is None:
            return
        results = {domain: each.cells for domain, each in scored.items() if each.cells}
        about: dict[str, Any] = {
            "metrics": list(modules),
            "decoding": decoding,
            "seed": seed,
            "baseline": baseline,
            "clusters": clusters,
            "variants": prints,
            "models": places(engine),
            "versions": versions(),
            "data": {domain: data_hash(_own(rows, domain)) for domain in data},
            "partial": partial,
        }
        if partial:
            about["missing"] = _missing(rows, kept)
            about["failed"] = {name: str(error) for name, error in failed.items()}
            about["left_out"] = sorted({name for each in scored.values() for name in each.left_out})
        if again:
            about["paraphrases"] = {
                domain: sum(map(len, others)) for domain, others in again.items() if domain in data
            }
        if judging:
            told = {domain: each.judged for domain, each in scored.items() if each.judged}
            about["judge"] = judging.about(told)
        lines = [line for each in scored.values() for line in each.lines]
        write_evaluation(out, lines, scores_of(results), {**about, "results": results})

    def partly() -> bool:
        scored = {domain: score_domain(domain, _of(rows, domain), setting, None) for domain in data}
        some = out is not None and any(each.lines for each in scored.values())
        if some:
            write(scored, True)
        return some

    try:
        failed |= ask(
            engine, rows, kept, log,
            batch_size=batch_size, max_new_tokens=max_new_tokens, pause=partly if out is not None else None,
        )  # fmt: skip
        scored = {
            domain: score_domain(domain, _of(rows, domain), setting, None if failed else log)
            for domain in data
        }
    except BaseException:
        with suppress(OSError, ValueError):  # what stopped it may stop this, too; the answers are kept
            if partly():
                log.say(f"what is known so far is in {out}, marked partial")
        raise
    write(scored, bool(failed))
    if failed:
        name, error = next(iter(failed.items()))
        raise TriptychError(
            f"variant '{name}' failed ({error}); what the others answered is in {out}, marked partial, and "
            "the same command goes on from there"
        ) from error
    return {domain: each.cells for domain, each in scored.items()}


def _of(rows: Sequence[Row], domain: str) -> list[Row]:
    return [row for row in rows if row.domain == domain]


def _own(rows: Sequence[Row], domain: str) -> list[Row]:
    return [row for row in rows if row.domain == domain and row.of is None]


def _missing(rows: Sequence[Row], kept: Mapping[str, AnswerCache]) -> dict[str, dict[str, int]]:
    """Return variant -> domain -> how many of its questions have no answer, where any has none."""
    found: dict[str, dict[str, int]] = {}
    for name, cache in kept.items():
        for row in rows:
            if row.key not in cache:
                of = found.setdefault(name, {})
                of[row.domain] = of.get(row.domain, 0) + 1
    return found

"""Results of other evaluation tools as an evaluation folder of ours.

Answers are scored anew by our metrics, so that figures of several tools mean the same and have intervals;
what the other tool gave each answer is kept as ``lm_eval_exact_match`` and the like where all rows have it.
Figures without answers go into ``scores.json`` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from apps.evaluation_folder import SCORES, write_evaluation
from apps.figures import Sheet, Told, compare, measured, of_samples, scores_of, sheet
from studio.errors import ConfigError, DataError, unknown
from studio.files import atomic_write
from studio.intervals import Additive, interval
from studio.outside_results import Answer, Figure, Outside

Results = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What outside results became: cells with intervals, their lines, and figures without answers."""

    results: Results
    lines: list[dict[str, Any]]
    figures: tuple[Figure, ...]
    prints: dict[str, str]
    metrics: tuple[str, ...]


def named(found: Sequence[tuple[str, Outside]]) -> tuple[list[Answer], list[Figure]]:
    """Return all answers and figures under the names that were given, or else their own.

    Raises:
        ConfigError: two files answer as one variant in one domain, or one of several models is named.
    """
    answers: list[Answer] = []
    figures: list[Figure] = []
    seen: dict[tuple[str, str], int] = {}
    for at, (name, outside) in enumerate(found):
        own = {each.variant for each in (*outside.answers, *outside.figures)}
        if name and len(own) > 1:
            raise ConfigError(f"'{name}' would name {len(own)} models: {', '.join(sorted(own))[:200]}")
        for each in {(one.variant, one.domain) for one in (*outside.answers, *outside.figures)}:
            place = (name or each[0], each[1])
            if seen.setdefault(place, at) != at:
                raise ConfigError(
                    f"two files hold results of '{place[0]}' on '{place[1]}'; name one of them as NAME=FILE"
                )
        mark = outside.format
        answers += [
            replace(
                each,
                variant=name or each.variant,
                scores={f"{mark}_{metric}": value for metric, value in each.scores.items()},
            )
            for each in outside.answers
        ]
        figures += [
            replace(each, variant=name or each.variant, metric=f"{mark}_{each.metric}")
            for each in outside.figures
        ]
    return answers, figures


def take(
    answers: Sequence[Answer],
    figures: Sequence[Figure],
    modules: Mapping[str, ModuleType],
    *,
    baseline: str = "",
    seed: int = 0,
) -> Taken:
    """Return what the answers are worth by our metrics, and the rest.

    Raises:
        DataError: a metric does not fit a domain's answers.
    """
    rows: dict[str, dict[str, dict[str, Answer]]] = {}
    for each in answers:
        cell = rows.setdefault(each.domain, {}).setdefault(each.variant, {})
        if each.where in cell:
            raise DataError(f"'{each.variant}' answers {each.where} twice")
        cell[each.where] = each
    higher = {(f.domain, f.metric): f.higher_is_better for f in figures}
    results: Results = {}
    lines: list[dict[str, Any]] = []
    prints = {name: _print([a for a in answers if a.variant == name]) for name in _names(answers)}
    for domain, cells in rows.items():
        sheets: dict[str, dict[str, Sheet]] = {}
        results[domain] = {}
        for name, own in cells.items():
            told = Told(
                answers=[each.output for each in own.values()],
                references=[each.reference for each in own.values()],
                columns={},
            )
            try:
                sheets[name] = {metric: sheet(metric, module, told) for metric, module in modules.items()}
                cell = measured(sheets[name], seed)
            except ValueError as error:
                raise DataError(f"domain '{domain}': {error}") from None
            _add_theirs(cell, list(own.values()), higher, seed)
            results[domain][name] = cell
            values = of_samples(modules, sheets[name])
            for at, each in enumerate(own.values()):
                ours = {metric: column[at] for metric, column in values.items()}
                lines.append(_line(each, {**ours, **each.scores}, prints[name], seed))
        for name in results[domain]:
            if baseline in sheets and name != baseline:
                _compare(results[domain][name], cells, sheets, name, baseline, seed)
    metrics = dict.fromkeys(
        m for cells in results.values() for cell in cells.values() for m in cell["metrics"]
    )
    # A figure whose answers are there is told by these.
    alone = tuple(
        f for f in figures if f.metric not in results.get(f.domain, {}).get(f.variant, {}).get("metrics", {})
    )
    return Taken(results=results, lines=lines, figures=alone, prints=prints, metrics=tuple(metrics))


def scores(taken: Taken) -> dict[str, dict[str, dict[str, Any]]]:
    """Return ``{variant: {"domain.metric": {value, low, high, n}}}`` of all that was found."""
    found = scores_of(taken.results)
    for each in taken.figures:
        low = high = None
        if each.stderr is not None:
            low, high = each.value - 1.96 * each.stderr, each.value + 1.96 * each.stderr
        cell = {"value": each.value, "low": low, "high": high, "n": each.n}
        found.setdefault(each.variant, {})[f"{each.domain}.{each.metric}"] = cell
    return found


def judged(taken: Taken) -> dict[str, dict[str, dict[str, Any]]]:
    """Return results by domain and variant as rules look at them, figures without answers among them.

    An interval that is not known counts as the value alone.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {
        domain: {name: {**cell, "metrics": dict(cell["metrics"])} for name, cell in cells.items()}
        for domain, cells in taken.results.items()
    }
    for name, figures in scores(taken).items():
        for key, each in figures.items():
            domain, _, metric = key.rpartition(".")
            cell = found.setdefault(domain, {}).setdefault(name, {"metrics": {}})
            ends = [each["value"] if each[end] is None else each[end] for end in ("low", "high")]
            cell["metrics"].setdefault(metric, {"value": each["value"], "ci": ends, "n": each["n"]})
    return found


def check_baseline(baseline: str, answers: Sequence[Answer]) -> None:
    """Raise `ConfigError` if there is no such variant with answers."""
    if baseline and baseline not in _names(answers):
        raise ConfigError(f"--baseline: {unknown('variant', baseline, sorted(_names(answers)))}")


def write(out: Path, taken: Taken, files: Sequence[str], *, baseline: str = "", seed: int = 0) -> None:
    """Write an evaluation folder, or ``scores.json`` alone where there are no answers."""
    if not taken.lines:
        atomic_write(out / SCORES, json.dumps(scores(taken), indent=2) + "\n")
        return
    about = {
        "metrics": list(taken.metrics),
        "decoding": {},
        "seed": seed,
        "baseline": baseline,
        "clusters": "",
        "variants": taken.prints,
        "outside": list(files),
        "partial": False,
        "results": taken.results,
    }
    write_evaluation(out, taken.lines, scores(taken), about)


def _names(answers: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(each.variant for each in answers))


def _print(answers: Sequence[Answer]) -> str:
    """Return a hash of what a variant said: its weights are not known."""
    told = json.dumps([[each.domain, each.where, each.output] for each in answers])
    return hashlib.sha256(told.encode()).hexdigest()


def _line(each: Answer, values: Mapping[str, float], digest: str, seed: int) -> dict[str, Any]:
    return {
        "domain": each.domain,
        "where": each.where,
        "prompt": each.prompt,
        "media": [],
        "groups": dict(each.groups),
        "reference": each.reference,
        "variant": each.variant,
        "output": each.output,
        "scores": dict(values),
        "variant_sha256": digest,
        "seed": seed,
    }


def _add_theirs(
    cell: Mapping[str, Any], rows: Sequence[Answer], higher: Mapping[tuple[str, str], bool], seed: int
) -> None:
    """Add the means of what the other tool gave every row."""
    for metric in rows[0].scores:
        if not all(metric in row.scores for row in rows):
            continue
        values = np.array([row.scores[metric] for row in rows], dtype=np.float64)
        low, high = interval(
            Additive(rows=np.stack([values, np.ones_like(values)], axis=1), value=_mean), seed
        )
        cell["metrics"][metric] = {
            "value": float(values.mean()),
            "n": len(rows),
            "ci": [low, high],
            "higher_is_better": higher.get((rows[0].domain, metric), True),
        }


def _mean(totals: Any) -> Any:
    return totals[:, 0] / np.where(totals[:, 1] > 0, totals[:, 1], 1.0)


def _compare(
    cell: Mapping[str, Any],
    cells: Mapping[str, Mapping[str, Answer]],
    sheets: Mapping[str, Mapping[str, Sheet]],
    name: str,
    baseline: str,
    seed: int,
) -> None:
    """Compare two variants that answered the same questions in the same order; others are left apart."""
    if list(cells[name]) == list(cells[baseline]):
        compare(cell, sheets[name], sheets[baseline], seed)

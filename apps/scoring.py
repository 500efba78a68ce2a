"""One domain's answers as figures and lines: what every variant scores, gains against another, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from apps.answer_cache import AnswerCache, Contents
from apps.asking import Answerer, Row
from apps.evaluation_folder import asked, sample_row
from apps.figures import Sheet, Told, add_groups, columns, compare, measured, of_samples, sheet
from apps.judging import Judging
from apps.sureness import COLUMNS, sureness
from studio.errors import DataError
from studio.log import Log

Results = dict[str, dict[str, dict[str, Any]]]
"""``results[domain][variant]``: ``metric``, ``value``, ``n``, ``ci`` and ``higher_is_better`` of the first
metric, and under ``metrics`` the same of every metric by name."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the figures of all domains have in common; ``kept`` and ``sure`` are answers and probabilities."""

    engine: Answerer
    modules: Mapping[str, ModuleType]
    contents: Contents
    prints: Mapping[str, str]
    kept: Mapping[str, AnswerCache]
    sure: Mapping[str, AnswerCache]
    seed: int
    baseline: str
    clusters: str
    judging: Judging | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A domain's cells by variant, its lines of samples, what the judge says beside, metrics left out."""

    cells: dict[str, dict[str, Any]]
    lines: list[dict[str, Any]]
    judged: dict[str, Any] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


def score_domain(domain: str, rows: Sequence[Row], setting: Setting, log: Log | None) -> Scored:
    """Return what the answers to one domain's rows are worth.

    Without a log nothing is computed by a model any more: every variant is scored on the rows that it has
    answered, by the metrics that need nothing beyond what is kept.

    Raises:
        DataError: a metric does not fit the answers: its sentence, with the domain.
    """
    own = [row for row in rows if row.of is None]
    done: dict[str, list[int]] = {
        name: [at for at, row in enumerate(own) if row.key in cache] for name, cache in setting.kept.items()
    }
    sheets: dict[str, dict[str, Sheet]] = {}
    told: dict[str, Told] = {}
    left_out: set[str] = set()
    try:
        for name, places in done.items():
            if not places:
                continue
            told[name] = _told(name, [own[at] for at in places], places, rows, setting, log)
            sheets[name] = {}
            for metric, module in setting.modules.items():
                if log is None and set(getattr(module, "NEEDS", ())) - {*told[name].columns, "paraphrase"}:
                    left_out.add(metric)
                    continue
                try:
                    sheets[name][metric] = sheet(metric, module, told[name])
                except ValueError:
                    if log is not None:
                        raise
                    left_out.add(metric)  # some of what it needs may be among what is missing
        cells = {name: measured(each, setting.seed) for name, each in sheets.items() if each}
        if setting.baseline in cells:
            for name, cell in cells.items():
                if name != setting.baseline:
                    _compare(cell, name, done, told, sheets, setting)
    except ValueError as error:
        raise DataError(f"domain '{domain}': {error}") from None
    for name in cells:
        for group in setting.by:
            marks = [own[at].sample.groups.get(group, "") for at in done[name]]
            add_groups(cells[name], sheets[name], group, marks, setting.seed)
    lines = _lines(own, done, told, sheets, rows, setting)
    judged: dict[str, Any] = {}
    if setting.judging and log is not None:
        judged = setting.judging.beside(own, told, setting.baseline, setting.seed, log)
    return Scored(cells=cells, lines=lines, judged=judged, left_out=frozenset(left_out))


def _told(
    name: str,
    own: Sequence[Row],
    places: Sequence[int],
    rows: Sequence[Row],
    setting: Setting,
    log: Log | None,
) -> Told:
    """Return what a variant said to the rows that it has answered, with the columns that metrics need."""
    kept = setting.kept[name]
    answers = [kept[row.key] for row in own]
    references = [row.sample.answer for row in own]
    more = columns([row.sample for row in own], setting.modules)
    sure = setting.sure[setting.prints[name]]
    more |= sureness(setting.engine, name, own, answers, setting.modules, sure, log)
    if setting.judging:
        more |= setting.judging.judgements([asked(row) for row in own], references, answers, log)
    others: dict[int, list[str]] = {place: [] for place in places}
    for row in rows:
        if row.of in others and row.key in kept:
            others[row.of].append(kept[row.key])
    if any(others.values()):
        more["paraphrase"] = list(others.values())
    marks = [row.sample.groups.get(setting.clusters, "") for row in own] if setting.clusters else None
    return Told(answers=answers, references=references, columns=more, clusters=marks)


def _compare(
    cell: Mapping[str, Any],
    name: str,
    done: Mapping[str, Sequence[int]],
    told: Mapping[str, Told],
    sheets: Mapping[str, Mapping[str, Sheet]],
    setting: Setting,
) -> None:
    """Compare a variant with the baseline on the rows that both have answered."""
    ours, theirs = done[name], done[setting.baseline]
    if ours == theirs:
        compare(cell, sheets[name], sheets[setting.baseline], setting.seed)
        return
    both = set(ours) & set(theirs)
    if not both:
        return
    pair = []
    for variant, places in ((name, ours), (setting.baseline, theirs)):
        some = told[variant].only([at for at, place in enumerate(places) if place in both])
        pair.append({metric: sheet(metric, setting.modules[metric], some) for metric in sheets[variant]})
    compare(cell, pair[0], pair[1], setting.seed)


def _lines(
    own: Sequence[Row],
    done: Mapping[str, Sequence[int]],
    told: Mapping[str, Told],
    sheets: Mapping[str, Mapping[str, Sheet]],
    rows: Sequence[Row],
    setting: Setting,
) -> list[dict[str, Any]]:
    """Return the lines of ``samples.jsonl``: row by row, variant by variant."""
    others: dict[int, list[Row]] = {}
    for row in rows:
        if row.of is not None:
            others.setdefault(row.of, []).append(row)
    place = {name: {at: number for number, at in enumerate(places)} for name, places in done.items()}
    values = {name: of_samples(setting.modules, each) for name, each in sheets.items()}
    lines = []
    for at, row in enumerate(own):
        for name, cache in setting.kept.items():
            if at not in place[name]:
                continue
            number = place[name][at]
            line = sample_row(row, name, cache[row.key], setting.contents)
            line["scores"] = {metric: each[number] for metric, each in values[name].items()}
            for column in (*COLUMNS, "judgement"):
                if column in told[name].columns:
                    line[column] = told[name].columns[column][number]
            if at in others:
                line["paraphrases"] = [
                    {"prompt": asked(each), "output": cache[each.key]}
                    for each in others[at]
                    if each.key in cache
                ]
            lines.append({**line, "variant_sha256": setting.prints[name], "seed": setting.seed})
    return lines

"""The parts of a report as HTML: headline, retention, scores, gains and losses, calibration, regressions."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import replace

from studio.chart import Chart, Line, drawing
from studio.eval_report.assemble import Report
from studio.eval_report.cards import examples, regression_card, text
from studio.eval_report.embed import Media
from studio.eval_report.gains import Comparison
from studio.eval_report.retention import MEAN, Kept
from studio.eval_report.words import chance, ends, kept_sentence, number, short
from studio.heatmap import HeatMap, figure, plain_table

#: Lines of one chart: as many as there are colours.
LINES = 6
_ALONE = "Nothing is known to fall behind: name a baseline with --baseline, or the experts with --experts."


def section(name: str, title: str, told: str, parts: Iterable[str]) -> str:
    """Return a part of the page under a heading, with a sentence on how to read it (HTML already)."""
    return (
        f'<section class="part" aria-labelledby="part-{name}"><h2 id="part-{name}">{html.escape(title)}</h2>'
        f'<p class="soft">{told}</p>{"".join(parts)}</section>'
    )


def headline(report: Report) -> str:
    """Return what is to be known first: what the best merge kept, and whether anything is missing."""
    merged = report.of_kind("merge", "unknown")
    means = {
        name: rows
        for name in merged
        if (rows := [k for k in report.retention if k.variant == name]) and _mean(rows) is not None
    }
    parts = []
    if means and any(report.of_kind("merge")):
        best = max(means, key=lambda name: _mean(means[name]) or 0.0)
        clause = kept_sentence(means[best], report.metric)
        if clause:
            most = " most" if len(means) > 1 else ""
            parts.append(f'<p class="finding"><b>{text(best)}</b> keeps{most}: {text(clause)}.</p>')
    told = [f"{len(report.evaluation.variants)} variants on {len(report.evaluation.domains)} data sets"]
    told += [_told(value) for value in report.about.values()]
    parts.append(f'<p class="soft">{text("; ".join(told), 2000)}.</p>')
    return "".join(parts) + _partial(report)


def retention(report: Report) -> str:
    """Return the matrix of what was kept, and who is at home where."""
    title = "What was kept"
    if not report.homes:
        why = (
            "Which variants are single experts is not known, so nothing can be said of what a merge kept of "
            "them: name them with --experts."
        )
        return section("retention", title, why, [])
    higher = report.evaluation.higher(report.metric)
    over = "variant / expert" if higher else "expert / variant, as lower is better"
    told = (
        f"{html.escape(report.metric)} of each variant over that of the expert at home ({over}): 100 % is "
        "all of it. In brackets 95 % intervals of the ratio, the questions drawn together for both (paired "
        "bootstrap)."
    )
    homes = [
        (
            short(home.domain),
            home.variant,
            number(home.value),
            str(report.evaluation.results[home.domain][home.variant]["metrics"][report.metric]["n"]),
            home.how,
        )
        for home in report.homes.values()
    ]
    head = ("data", "expert at home", report.metric, "n", "how it was found")
    return section(
        "retention",
        title,
        told,
        [f'<div class="maps">{figure(kept_map(report))}</div>', plain_table(head, homes)],
    )


def kept_map(report: Report) -> HeatMap:
    """Return variants by domains: what was kept of the expert's score, merges first."""
    cells = {(kept.variant, kept.domain): kept for kept in report.retention}
    columns = [*report.homes, *([MEAN] if any(domain == MEAN for _, domain in cells) else [])]
    order = report.of_kind("merge", "unknown") + report.of_kind("base") + report.of_kind("expert")
    rows = [name for name in order if any((name, domain) in cells for domain in columns)]
    grid = [[cells.get((name, domain)) for domain in columns] for name in rows]
    return HeatMap(
        title="Kept of the expert's score",
        note="uncoloured: all of it; copper: less; petrol: more than the expert",
        rows=rows,
        columns=[short(name) for name in columns],
        values=[[kept.value if kept else None for kept in row] for row in grid],
        small=[[_under(kept) for kept in row] for row in grid],
        middle=1.0,
        reach=1.0,
        form="{:.0%}",
    )


def scores(report: Report) -> str:
    """Return a heat map of each metric's values."""
    maps = [figure(score_map(report, metric)) for metric in report.evaluation.metrics]
    return section(
        "scores", "Scores", "Values with 95 % intervals.", [f'<div class="maps">{"".join(maps)}</div>']
    )


def score_map(report: Report, metric: str) -> HeatMap:
    """Return variants by domains: the value of one metric."""
    evaluation = report.evaluation
    grid = [[evaluation.figure(d, name, metric) for d in evaluation.domains] for name in evaluation.variants]
    values = [[cell["value"] if cell else None for cell in row] for row in grid]
    counts = {cell["n"] for row in grid for cell in row if cell}
    many = f"n {min(counts)}" if len(counts) == 1 else f"n {min(counts)} to {max(counts)}" if counts else ""
    best = "higher is better" if evaluation.higher(metric) else "lower is better"
    return HeatMap(
        title=metric,
        note=f"{best}; {many} questions",
        rows=evaluation.variants,
        columns=[short(domain) for domain in evaluation.domains],
        values=values,
        small=[[_bracket(*cell["ci"]) if cell else "" for cell in row] for row in grid],
        reach=max([1.0, *(abs(v) for row in values for v in row if v is not None)]),
        warm=not evaluation.higher(metric),
        form="{:.3f}",
    )


def gains(report: Report) -> str:
    """Return gains and losses against the baseline: a map for each metric, and all figures as a table."""
    title = "Gains and losses"
    if not report.baseline:
        return section("gains", title, "No baseline is known: name one with --baseline.", [])
    made = report.comparisons
    told = (
        f"Differences from <b>{text(report.baseline)}</b> on the same questions, with p-values of paired "
        f"permutation tests, adjusted by Holm for all {len(made)} comparisons of this page. "
        "Only what is below 0.05 then is called better or worse."
    )
    maps = [figure(gain_map(report, metric)) for metric in report.evaluation.metrics if _of(made, metric)]
    rows = [
        (
            one.variant,
            short(one.domain),
            one.metric,
            f"{one.value:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            str(one.n),
            chance(one.p)[2:],
            chance(one.p_holm)[2:],
            one.verdict,
        )
        for one in made
    ]
    head = ("variant", "data", "metric", "difference", "95 % interval", "n", "p", "p, Holm", "verdict")
    table = f"<details><summary>All {len(made)} comparisons</summary>{plain_table(head, rows)}</details>"
    return section("gains", title, told, [f'<div class="maps">{"".join(maps)}</div>', table])


def gain_map(report: Report, metric: str) -> HeatMap:
    """Return variants by domains: the difference from the baseline, and whether it is shown."""
    cells = {(one.variant, one.domain): one for one in _of(report.comparisons, metric)}
    rows = [name for name in report.evaluation.variants if any(name == variant for variant, _ in cells)]
    domains = [d for d in report.evaluation.domains if any(d == domain for _, domain in cells)]
    values = [[one.value if (one := cells.get((v, d))) else None for d in domains] for v in rows]
    best = "above 0 is better" if report.evaluation.higher(metric) else "below 0 is better"
    return HeatMap(
        title=f"{metric} minus that of {report.baseline}",
        note=f"{best}; petrol: gained, copper: lost; p-values are adjusted",
        rows=rows,
        columns=[short(domain) for domain in domains],
        values=values,
        small=[
            [f"{one.verdict}, {chance(one.p_holm)}" if (one := cells.get((v, d))) else "" for d in domains]
            for v in rows
        ],
        reach=max([0.1, *(abs(v) for row in values for v in row if v is not None)]),
        warm=not report.evaluation.higher(metric),
        form="{:+.3f}",
    )


def calibration(report: Report) -> str:
    """Return the reliability diagram, where confidences are known."""
    if not report.calibration:
        return ""
    told = (
        "Answers by how sure the model is of them (the probability of all their tokens), against how often "
        "they are right (exact match). On the diagonal it is as often right as it is sure; below it, it is "
        "too sure. The calibration error is the mean distance."
    )
    found = report.calibration
    charts = []
    for at in range(0, len(found), LINES):
        some = found[at : at + LINES]
        lines = [
            Line(name=one.variant, points=[(b.confidence, b.right) for b in one.bins], colour=place)
            for place, one in enumerate(some)
        ]
        dots = [replace(line, dots=True, faint=True) for line in lines]
        diagonal = Line(name="as sure as right", points=[(0.0, 0.0), (1.0, 1.0)], faint=True, colour=5)
        charts.append(
            Chart(title="Reliability", x="confidence", y="share right", lines=[*lines, *dots, diagonal])
        )
    errors = [(one.variant, number(one.error), str(one.n)) for one in found]
    bins = [
        (
            one.variant,
            f"{b.low:.1f} to {b.high:.1f}",
            str(b.n),
            number(b.confidence),
            number(b.right),
            f"{number(b.interval[0])} to {number(b.interval[1])}",
        )
        for one in found
        for b in one.bins
    ]
    head = ("variant", "confidence", "n", "mean confidence", "share right", "95 % interval")
    return section(
        "calibration",
        "Calibration",
        told,
        [
            f'<div class="charts">{"".join(map(drawing, charts))}</div>',
            plain_table(("variant", "calibration error", "n"), errors),
            f"<details><summary>The diagram as a table</summary>{plain_table(head, bins)}</details>",
        ],
    )


def regressions(report: Report, media: Media) -> str:
    """Return the worst regressions with their media."""
    title = "The worst regressions"
    if not report.regressions:
        why = f"No question was found on which something was lost against {text(report.against)}."
        return section("regressions", title, why if report.baseline or report.homes else _ALONE, [])
    told = (
        f"Questions on which most was lost against {text(report.against)}, by "
        f"{html.escape(report.regressions[0].metric)}; among equal losses those whose answers are furthest "
        "from what was wanted, the data sets in turn."
    )
    homes = {domain: home.variant for domain, home in report.homes.items()}
    cards = [regression_card(one, homes.get(one.domain, ""), media) for one in report.regressions]
    return section("regressions", title, told, cards)


def samples(report: Report, media: Media) -> str:
    """Return the first questions of each domain with all answers, if they are asked for."""
    if not report.examples:
        return ""
    cards = [card for _, card in examples(report, media)]
    return section("samples", "Examples", "The first questions of each data set, and all answers.", cards)


def _partial(report: Report) -> str:
    """Return a warning that stands out, if the evaluation is not whole."""
    evaluation = report.evaluation
    if not evaluation.partial:
        return ""
    missing = evaluation.told.get("missing")
    rows = [
        (str(name), short(str(domain)), str(count))
        for name, domains in (missing.items() if isinstance(missing, dict) else ())
        for domain, count in (domains.items() if isinstance(domains, dict) else ())
        if count
    ]
    failed = evaluation.told.get("failed")
    notes = [*evaluation.notes]
    notes += [f"{name}: {why}" for name, why in failed.items()] if isinstance(failed, dict) else []
    left = evaluation.told.get("left_out")
    notes += [f"not computed yet: {', '.join(map(str, left))}"] if isinstance(left, list) and left else []
    listed = "".join(f"<li>{text(note)}</li>" for note in notes)
    table = plain_table(("variant", "data", "questions without an answer"), rows) if rows else ""
    told = f'<ul class="told">{listed}</ul>' if listed else ""
    return (
        '<div class="partial" role="note"><b>Partial.</b> This evaluation did not come to its end; the '
        f"figures are of the questions that were answered.{told}{table}</div>"
    )


def _under(kept: Kept | None) -> str:
    if kept is None:
        return ""
    return kept.note or (f"[{ends(kept)}]" if kept.low is not None else "")


def _told(value: object) -> str:
    if isinstance(value, dict):  # times: stage -> seconds
        return ", ".join(f"{name} {float(took):.0f} s" for name, took in value.items())
    return str(value)


def _bracket(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _mean(rows: Sequence[Kept]) -> float | None:
    whole = next((kept for kept in rows if kept.domain == MEAN), rows[0] if len(rows) == 1 else None)
    return whole.value if whole else None


def _of(made: Iterable[Comparison], metric: str) -> list[Comparison]:
    return [one for one in made if one.metric == metric]

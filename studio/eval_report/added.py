"""Groups and robustness as parts of a report, as `triptych groups` and `triptych robustness` left them.

Both come from files that anybody may have edited: what is not of their form is left out and said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studio.chart import Chart, Line, drawing
from studio.eval_report.assemble import Report
from studio.eval_report.cards import text
from studio.eval_report.parts import LINES, section
from studio.eval_report.words import chance, number, short
from studio.heatmap import HeatMap, figure, plain_table

_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def groups(report: Report) -> str:
    """Return metrics by group with the worst group and the gap, and pairs that should be answered alike."""
    told = report.evaluation.groups
    if told is None:
        return ""
    try:
        results = [one for one in told.get("results", []) if one["groups"]]
        parts = [_gaps(results), *_warnings(results), _all_groups(results), _pairs(told.get("pairs", []))]
    except _WRONG:
        return _damaged("groups", "Groups", "groups.json")
    why = (
        "Each metric by group, and the gap between the best and the worst group with its p-value, adjusted "
        "by Holm. Groups with a single member stand in no gap."
    )
    return section("groups", "Groups", why, parts)


def robustness(report: Report) -> str:
    """Return what is left under perturbations of growing strength, and under attacks."""
    told = report.evaluation.robustness
    if told is None:
        return ""
    try:
        curves = list(told["curves"])
        kinds = dict.fromkeys((one["domain"], one["metric"]) for one in curves)
        maps = [figure(_areas(curves, domain, metric)) for domain, metric in kinds]
        charts = [drawing(chart) for domain, metric in kinds for chart in _curves(curves, domain, metric)]
        table = plain_table(*_curve_table(curves))
        attacks = _attacks(told.get("attacks", []))
    except _WRONG:
        return _damaged("robustness", "Robustness", "robustness.json")
    why = (
        "Scores of inputs that were perturbed at strengths from 0 (as they are) to 5; the area is the mean "
        "score over all strengths."
    )
    more = (
        f"<details><summary>{len(charts)} curves</summary>"
        f'<div class="charts">{"".join(charts)}</div></details>'
        f"<details><summary>The curves as a table</summary>{table}</details>"
    )
    shown = [f'<div class="maps">{"".join(maps)}</div>', more] if curves else []
    return section("robustness", "Robustness", why, [*shown, attacks])


def _gaps(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in results:
        gap = one.get("gap")
        values = {group["name"]: group["value"] for group in one["groups"]}
        rows.append(
            (
                str(one["variant"]),
                short(str(one["domain"])),
                str(one["metric"]),
                ", ".join(map(str, one["by"])),
                _named(one.get("worst"), values),
                _named(one.get("best"), values),
                _interval(gap),
                chance(float(gap["p_holm"]))[2:] if gap and gap.get("p_holm") is not None else "-",
            )
        )
    head = ("variant", "data", "metric", "by", "worst group", "best group", "gap [95 %]", "p, Holm")
    return plain_table(head, rows)


def _warnings(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    told = dict.fromkeys(str(warning) for one in results for warning in one.get("warnings", ()))
    if told:
        yield f'<ul class="told">{"".join(f"<li>{text(warning)}</li>" for warning in told)}</ul>'


def _all_groups(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            str(one["variant"]),
            short(str(one["domain"])),
            str(one["metric"]),
            str(group["name"]),
            str(group["n"]),
            _interval(group),
            str(group.get("note") or ""),
        )
        for one in results
        for group in one["groups"]
    ]
    head = ("variant", "data", "metric", "group", "n", "value [95 %]", "note")
    return f"<details><summary>All {len(rows)} groups</summary>{plain_table(head, rows)}</details>"


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Return how often answers to the same content change with what should not matter."""
    rows = [
        (
            str(one["variant"]),
            short(str(one["domain"])),
            str(one["metric"]),
            ", ".join(map(str, one["by"])) if isinstance(one["by"], list) else str(one["by"]),
            str(one["sets"]),
            _interval(one.get("same_answer")),
            _interval(one.get("flips")),
        )
        for one in pairs
    ]
    if not rows:
        return ""
    head = (
        "variant",
        "data",
        "metric",
        "differs in",
        "pairs",
        "same answer [95 %]",
        "flips [95 %]",
    )
    return f"<h3>The same content in another form</h3>{plain_table(head, rows)}"


def _areas(curves: Sequence[Mapping[str, Any]], domain: str, metric: str) -> HeatMap:
    own = [one for one in curves if (one["domain"], one["metric"]) == (domain, metric)]
    variants = list(dict.fromkeys(str(one["variant"]) for one in own))
    kinds = list(dict.fromkeys(str(one["perturbation"]) for one in own))
    cells = {(str(one["variant"]), str(one["perturbation"])): one["area"] for one in own}
    values = [[_float(cells[v, k]["value"]) if (v, k) in cells else None for k in kinds] for v in variants]
    higher = bool(own[0]["higher_is_better"])
    return HeatMap(
        title=f"{short(domain)}: {metric} over all strengths",
        note="higher is better" if higher else "lower is better",
        rows=variants,
        columns=[kind.replace("_", " ") for kind in kinds],
        values=values,
        small=[[_ends(cells[v, k]) if (v, k) in cells else "" for k in kinds] for v in variants],
        reach=max([1.0, *(abs(v) for row in values for v in row if v is not None)]),
        warm=not higher,
        form="{:.2f}",
    )


def _curves(curves: Sequence[Mapping[str, Any]], domain: str, metric: str) -> Iterator[Chart]:
    own = [one for one in curves if (one["domain"], one["metric"]) == (domain, metric)]
    for kind in dict.fromkeys(str(one["perturbation"]) for one in own):
        some = [one for one in own if one["perturbation"] == kind]
        for at in range(0, len(some), LINES):
            lines = [
                Line(
                    name=str(one["variant"]),
                    points=[(_float(p["strength"]), _float(p["value"])) for p in one["points"]],
                )
                for one in some[at : at + LINES]
            ]
            title = f"{short(domain)}: {kind.replace('_', ' ')}"
            yield Chart(title=title, x="strength", y=metric, lines=lines, note=metric)


def _curve_table(
    curves: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    strengths = sorted({_float(point["strength"]) for one in curves for point in one["points"]})
    rows = []
    for one in curves:
        points = {_float(point["strength"]): point for point in one["points"]}
        cells = [_interval(points.get(strength)) for strength in strengths]
        rows.append(
            (
                str(one["variant"]),
                short(str(one["domain"])),
                str(one["perturbation"]),
                str(one["metric"]),
                *cells,
            )
        )
    return ("variant", "data", "perturbation", "metric", *(f"strength {s:g}" for s in strengths)), rows


def _attacks(attacks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            str(one["variant"]),
            short(str(one["domain"])),
            f"{one['attack']} on {one['on']}",
            f"{one['eps']} {one.get('unit', '')}".strip() if one.get("eps") is not None else "-",
            str(one["metric"]),
            str(one["n"]),
            _interval(one["clean"]),
            _interval(one["attacked"]),
        )
        for one in attacks
    ]
    if not rows:
        return ""
    head = ("variant", "data", "attack", "size", "metric", "n", "as it is [95 %]", "attacked [95 %]")
    return f"<h3>Attacks</h3>{plain_table(head, rows)}"


def _damaged(name: str, title: str, file: str) -> str:
    return section(name, title, f"{file} is damaged or of another version, and is left out.", [])


def _named(name: Any, values: Mapping[str, Any]) -> str:
    return f"{name} ({number(_float(values[name]))})" if name in values else "-"


def _interval(told: Any) -> str:
    """Return a value with its ends, ``0.810 [0.700, 0.900]``; a dash where there is none."""
    if not isinstance(told, Mapping) or told.get("value") is None:
        return "-"
    under = _ends(told)
    return f"{number(_float(told['value']))} {under}".strip()


def _ends(told: Mapping[str, Any]) -> str:
    if told.get("low") is None or told.get("high") is None:
        return ""
    return f"[{number(_float(told['low']))}, {number(_float(told['high']))}]"


def _float(value: Any) -> float:
    """Return a number; `TypeError` for what is none, so that a text never stands where a number is meant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(type(value).__name__)
    return float(value)

"""Scores by group of an evaluation folder: one report for all variants, domains, metrics and groupings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apps.answered import Answered, needed_columns
from studio.counterfactual import counterfactual
from studio.errors import ConfigError, DataError, unknown
from studio.groups import SMALL, Grouped, by_group, group_columns
from studio.log import Log
from studio.paired import holm
from studio.types import Score

Report = dict[str, Any]
_RULE = re.compile(r"(?:(?P<figure>[^=\s]+)\s*=\s*)?(?P<bound>\d*\.?\d+)")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The largest gap that is allowed: of a metric, a domain's metric, or of all; its value, low or high."""

    text: str
    figure: str
    end: str
    bound: float


def read_rule(text: str) -> Rule:
    """Return the rule that a text states.

    Raises:
        ConfigError: it states none.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--max-gap {text!r} is no rule; it reads '0.1', 'wer=0.1' or 'textiles.wer=0.1', with '.low' or "
            "'.high' behind the name where an end of the gap's interval is meant"
        )
    figure = match["figure"] or ""
    head, _, tail = figure.rpartition(".")
    figure, end = (head, tail) if tail in ("low", "high") else (figure, "value")
    return Rule(text=text.strip(), figure=figure, end=end, bound=float(match["bound"]))


def group_report(
    answered: Answered,
    by: Sequence[Sequence[str]],
    log: Log,
    *,
    metrics: Sequence[str] = (),
    variants: Sequence[str] = (),
    pairs: str = "",
    clusters: str = "",
    small: int = SMALL,
    seed: int = 0,
) -> Report:
    """Return every metric by every grouping, as `groups.json` holds it.

    P-values are adjusted by Holm over all domains, metrics and groupings of a variant. Domains whose samples
    have no such group are passed over.

    Args:
        answered: the evaluation.
        by: groupings, each the names of the groups that are crossed.
        log: is told how far it is.
        metrics: names; empty for those of the evaluation that tell of single samples.
        variants: names; empty for all.
        pairs: group that names sets of samples that differ in a ``by`` of one name alone; they are compared
            within the sets as well.
        clusters: group whose samples belong together; ``pairs`` if empty.
        small: groups with fewer members are warned of.
        seed: of intervals and permutations.

    Raises:
        ConfigError: a group, metric or variant that there is not.
        DataError: a metric that does not fit, or pairs that are none.
    """
    if wrong := [name for name in variants if name not in answered.variants]:
        raise ConfigError(unknown("variant", wrong[0], answered.variants))
    every = [row["groups"] for rows in answered.cells.values() for row in rows]
    group_columns(
        every, [*dict.fromkeys(name for names in by for name in names), *filter(None, [pairs, clusters])]
    )
    chosen = [cell for cell in answered.cells if not variants or cell[1] in variants]
    known = {cell: {name for row in answered.cells[cell] for name in row["groups"]} for cell in chosen}
    jobs = [
        (cell, names, metric)
        for cell in chosen
        for names in by
        if set(names) <= known[cell]
        for metric in metrics or answered.metrics
    ]
    if not jobs:
        crossed = " and ".join(by[0])
        raise ConfigError(f"no domain of these variants has the groups {crossed} together")
    log.stage("groups", len(jobs), "tables")
    results: list[Report] = []
    compared: list[Report] = []
    passed: list[str] = []
    for cell, names, metric in jobs:
        rows = answered.cells[cell]
        said, meant = [row["output"] for row in rows], [row["reference"] for row in rows]
        groups = [row["groups"] for row in rows]
        marks = [group.get(clusters or pairs, "") or f"row {at}" for at, group in enumerate(groups)]
        head = {"domain": cell[0], "variant": cell[1], "metric": metric, "by": list(names)}
        told = needed_columns(metric, rows)
        columns = group_columns(groups, names)
        try:
            found = by_group(
                metric, said, meant, columns, seed,
                columns=told, clusters=marks if clusters or pairs else None, small=small,
            )  # fmt: skip
            results.append(head | _told(found))
            sets, sides = [group.get(pairs, "") for group in groups], columns[names[0]]
            if len(names) == 1 and _differ(sets, sides):
                one = counterfactual(metric, said, meant, sets, sides, seed, columns=told)
                compared.append(head | {"pair": pairs} | _compared(one))
        except DataError as error:
            raise DataError(f"domain '{cell[0]}': {error}") from None
        except ConfigError:
            raise
        except ValueError as error:
            if metrics or type(error) is not ValueError:
                raise DataError(f"domain '{cell[0]}': {error}") from None
            passed.append(f"{cell[0]}: {error}")
        log.advance()
    if not results:
        raise DataError(passed[0])
    if pairs and not compared:
        crossed = ", ".join(names[0] for names in by if len(names) == 1) or "one name without commas"
        raise DataError(f"no two rows of one {pairs} differ in what --by names: {crossed}")
    _adjust(results, lambda result: [result["gap"]] if result["gap"] else [])
    _adjust(compared, lambda result: result["differences"])
    return {
        "by": [list(names) for names in by],
        "small": small,
        "seed": seed,
        "partial": answered.partial,
        "results": results,
        "pairs": compared,
        "left_out": list(dict.fromkeys(passed)),
    }


def judge(rules: Sequence[Rule], report: Report) -> list[Report]:
    """Return what every rule says of every gap that it is about.

    Raises:
        ConfigError: a rule is about no figure that there is.
    """
    verdicts = []
    for rule in rules:
        found = [
            result
            for result in report["results"]
            if rule.figure in ("", result["metric"], f"{result['domain']}.{result['metric']}")
        ]
        if not found:
            figures = {
                name for r in report["results"] for name in (r["metric"], f"{r['domain']}.{r['metric']}")
            }
            raise ConfigError(f"--max-gap {rule.text!r}: {unknown('figure', rule.figure, figures)}")
        for result in found:
            if result["gap"]:
                value = result["gap"][rule.end]
                about = {name: result[name] for name in ("domain", "variant", "metric", "by")}
                kept = round(value, 12) <= rule.bound
                chance = result["gap"]["p_holm"] >= 0.05
                verdicts.append({"rule": rule.text, **about, "value": value, "kept": kept, "chance": chance})
    return verdicts


def _differ(sets: Sequence[str], sides: Sequence[str]) -> bool:
    """Say whether any set has two sides: a group that no set varies is not what the sets are about."""
    seen: dict[str, str] = {}
    return any(
        name and side and seen.setdefault(name, side) != side for name, side in zip(sets, sides, strict=True)
    )


def _adjust(results: Sequence[Report], tests: Callable[[Report], Sequence[Report]]) -> None:
    """Add the adjusted p-value to every test, over all tests of the variant."""
    families: dict[str, list[Report]] = {}
    for result in results:
        families.setdefault(result["variant"], []).extend(tests(result))
    for family in families.values():
        for test, p in zip(family, holm([test["p"] for test in family]), strict=True):
            test["p_holm"] = p


def _told(found: Grouped) -> Report:
    return {
        "higher_is_better": found.overall.higher_is_better,
        "n": found.overall.n,
        "left_out": found.left_out,
        "overall": _figures(found.overall),
        "groups": [asdict(group) for group in found.groups],
        "worst": found.worst,
        "best": found.best,
        "gap": asdict(found.gap) if found.gap else None,
        "warnings": list(found.warnings),
    }


def _compared(found: Any) -> Report:
    return {
        "sets": found.sets,
        "left_out": found.left_out,
        "same_answer": _figures(found.same_answer),
        "flips": _figures(found.flips),
        "sides": [{"name": name, "value": value} for name, value in found.sides.items()],
        "differences": [
            {"one": each.one, "other": each.other}
            | {name: getattr(each.difference, name) for name in ("n", "value", "low", "high", "p")}
            for each in found.differences
        ],
    }


def _figures(score: Score) -> Mapping[str, float]:
    return {"value": score.value, "low": score.low, "high": score.high}

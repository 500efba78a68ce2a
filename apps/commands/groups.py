"""Tell scores by group of samples: the worst group, the gap, and whether it is more than chance.

Reads what `triptych eval --out DIR` wrote and puts groups.json beside it. A p-value says how often names of
groups dealt at random leave as large a gap; it is adjusted (Holm) over a variant's domains, metrics and
groupings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = (
    "triptych groups runs/eval --by accent --by site\n"
    "triptych groups runs/eval --by accent,site --metric wer   (each accent at each site)\n"
    "triptych groups runs/eval --by colour --pairs pair   (rows of one pair differ in colour alone)\n"
    "triptych groups runs/eval --by site --max-gap 0.1 --max-gap textiles.exact_match.low=0.05"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `triptych eval --out` wrote")
    parser.add_argument(
        "--by",
        action="append",
        required=True,
        metavar="GROUP",
        help="accent, site or another group of the rows; may be given again; with commas groups are crossed",
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="M", help="may be given again (the evaluation's)"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="V", help="may be given again (all variants)"
    )
    parser.add_argument(
        "--pairs",
        metavar="GROUP",
        default="",
        help="group that names pairs of rows which differ in --by alone: how often the answer changes",
    )
    parser.add_argument(
        "--clusters",
        metavar="GROUP",
        default="",
        help="rows of one value (speaker) belong together (--pairs)",
    )
    parser.add_argument(
        "--small", type=int, default=20, metavar="N", help="warn of groups with fewer rows (%(default)s)"
    )
    parser.add_argument(
        "--max-gap",
        action="append",
        default=[],
        metavar="RULE",
        help="exit 1 if a gap is larger: 0.1, wer=0.1, textiles.wer.low=0.1; may be given again",
    )
    parser.add_argument("--seed", type=int, default=0, help="of intervals and permutations (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print groups.json instead of tables")


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables, write groups.json, and judge the rules."""
    from apps.answered import read_answered
    from apps.group_report import group_report, judge, read_rule
    from studio import plugins
    from studio.errors import ConfigError
    from studio.files import atomic_write
    from studio.log import best_log

    rules = [read_rule(text) for text in options.max_gap]
    if options.small < 2:
        raise ConfigError(f"--small must be at least 2, not {options.small}")
    by = [[name.strip() for name in text.split(",") if name.strip()] for text in options.by]
    metrics = [plugins.canonical("metrics", name) for name in options.metric]
    answered = read_answered(options.folder)
    report = group_report(
        answered, by, best_log(), metrics=metrics, variants=options.variant, pairs=options.pairs,
        clusters=options.clusters, small=options.small, seed=options.seed,
    )  # fmt: skip
    report["rules"] = judge(rules, report)
    written = atomic_write(options.folder / "groups.json", json.dumps(report, indent=2) + "\n")
    broken = [verdict for verdict in report["rules"] if not verdict["kept"]]
    if options.json:
        print(json.dumps(report, indent=2))
        return 1 if broken else 0

    from rich.console import Console

    console = Console()
    if report["partial"]:
        console.print("the evaluation was interrupted: some answers are missing")
    for key in dict.fromkeys((r["domain"], r["metric"], tuple(r["by"])) for r in report["results"]):
        own = [r for r in report["results"] if (r["domain"], r["metric"], tuple(r["by"])) == key]
        title = f"{key[0]}.{key[1]} by {' x '.join(key[2])}, 95 % interval"
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(_table(key[2], own))
        for line in dict.fromkeys(text for result in own for text in result["warnings"]):
            console.print(f"note: {line}", markup=False, highlight=False)
    for pair in report["pairs"]:
        what = f"{pair['sets']} pairs by {pair['by'][0]}, {pair['metric']}"
        title = f"{pair['variant']} on {pair['domain']}: {what}"
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(_pairs(pair))
    for line in report["left_out"]:
        console.print(f"left out: {line}", markup=False, highlight=False)
    console.print(f"written to {written}", markup=False, highlight=False, soft_wrap=True)
    for verdict in report["rules"]:
        word = "kept" if verdict["kept"] else "BROKEN"
        figure = (
            f"{verdict['variant']}: {verdict['domain']}.{verdict['metric']} by {', '.join(verdict['by'])}"
        )
        chance = "; it may be chance" if verdict["chance"] and not verdict["kept"] else ""
        print(f"{word:6}  {figure}: at most {verdict['rule']}  ({verdict['value']:.4f}{chance})")
    return 1 if broken else 0


def _table(by: tuple[str, ...], results: list[dict[str, Any]]) -> Table:
    """Return a domain's metric by group: groups down, variants across, below them the gap."""
    from rich.table import Table
    from rich.text import Text

    view = Table(caption_justify="left")
    view.caption = "higher is better" if results[0]["higher_is_better"] else "lower is better"
    view.add_column(" x ".join(by))
    view.add_column("n", justify="right")
    for result in results:
        view.add_column(Text(result["variant"]), justify="right")
    cells = [{group["name"]: group for group in result["groups"]} for result in results]
    for name in sorted({name for own in cells for name in own}):
        shown = [
            Text(_figure(own.get(name)), style="bold" if result["worst"] == name else "")
            for own, result in zip(cells, results, strict=True)
        ]
        view.add_row(Text(name), str(max(own[name]["n"] for own in cells if name in own)), *shown)
    view.add_section()
    view.add_row("all", str(results[0]["n"]), *(_figure(result["overall"]) for result in results))
    view.add_row("worst", "", *(Text(result["worst"] or "-") for result in results))
    view.add_row("gap", "", *(_figure(result["gap"]) for result in results))
    view.add_row("p (Holm)", "", *(_p(result["gap"]) for result in results))
    return view


def _pairs(found: dict[str, Any]) -> Table:
    """Return what changes within the pairs of one variant."""
    from rich.table import Table
    from rich.text import Text

    view = Table(caption_justify="left")
    same, flips = _line(found["same_answer"]), _line(found["flips"])
    view.caption = f"two of a pair: same answer {same}; one right, one wrong {flips}"
    for name in ("sides", "pairs", "difference", "p (Holm)"):
        view.add_column(name, justify="left" if name == "sides" else "right")
    for each in found["differences"]:
        view.add_row(Text(f"{each['one']} - {each['other']}"), str(each["n"]), _line(each), _p(each))
    return view


def _figure(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    if figures["low"] is None:
        return f"{figures['value']:.3f}"
    return f"{figures['value']:.3f}\n{figures['low']:.3f}-{figures['high']:.3f}"


def _line(figures: dict[str, Any]) -> str:
    return f"{figures['value']:.3f} ({figures['low']:.3f} to {figures['high']:.3f})"


def _p(test: dict[str, Any] | None) -> str:
    if test is None:
        return "-"
    return "<0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"

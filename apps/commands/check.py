"""Check data before anything is trained on it: every row, every medium, every pair of splits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps import engines

if TYPE_CHECKING:
    from studio.data.findings import Finding, Report

EXAMPLE = (
    "triptych check handwriting\n"
    "triptych check calls --model nano-omni --out runs/checked\n"
    "triptych check calls --fix calls-repaired\n"
    "triptych check LLaMA-Factory/data/mllm_demo.json"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "data", metavar="DATA", help="a file or folder of rows, in any format `triptych ls formats` lists"
    )
    parser.add_argument("--model", metavar="M", help="measure each row with this model's processor, too")
    parser.add_argument("--from", metavar="NAME", dest="source", help="the format; found out if left out")
    parser.add_argument("--split", metavar="S", help="only this split of a folder; without it, all of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for check.json and check.html")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a repaired copy to this new folder")
    parser.add_argument("--json", action="store_true", help="print check.json instead of a table")
    engines.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Check, print a table, write what is asked for; 1 if there are errors."""
    from studio.assets import find_data, find_model
    from studio.data.findings.check import check
    from studio.data.findings.repair import FILE, repair
    from studio.data.findings.source import source_of
    from studio.errors import DataError
    from studio.log import best_log

    engines.choose(options)
    source = source_of(find_data(options.data), options.split, options.source)
    if options.fix and not source.own:
        raise DataError(
            f"'{options.data}' is {source.format}, and --fix writes rows of ours; first convert it: "
            f"triptych convert {options.data} OUT --to triptych"
        )
    gauge = None
    if options.model:
        from studio import families

        gauge = families.gauge(find_model(options.model))
    log = best_log()
    report = check(source, log, gauge=gauge)
    if options.out:
        write(report, options.out)
    if options.json:
        print("".join(report.json_text()), end="")
    else:
        if not source.own:
            print(f"{options.data} is {source.format}: {source.why}; to train on it: triptych convert")
        show(report)
        if options.out:
            print(f"written to {options.out / 'check.json'} and {options.out / 'check.html'}")
    if options.fix:
        done = repair(report, options.fix, log)
        log.say(
            f"{done.kept:,} rows kept, {len(done.dropped):,} left out, {len(done.rewritten):,} media mended: "
            f"{options.fix / FILE} lists them"
        )
    return 1 if report.error_count else 0


def write(report: Report, folder: Path) -> None:
    """Write check.json and check.html, each whole or not at all."""
    from studio.data.findings.page import findings_page
    from studio.files import atomic_file, atomic_write

    with atomic_file(folder / "check.json") as file:
        for text in report.json_text():
            file.write(text.encode())
    atomic_write(folder / "check.html", findings_page(report))


def show(report: Report) -> None:
    """Print a line for each kind of finding, with the first place where it was found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from studio.data.findings.kinds import KINDS

    console = Console()
    if report.findings:
        table = Table(box=None, pad_edge=False)
        for name in ("kind", "severity", "rows", "first", "fix"):
            table.add_column(name, justify="right" if name == "rows" else "left")
        first: dict[str, Finding] = {}
        for finding in report.findings:
            first.setdefault(finding.kind, finding)
        for name, count in report.counts().items():
            kind, place = KINDS[name], f"{first[name].file.name}:{first[name].row}"
            colour = "red" if kind.severity == "error" else "yellow"
            told = (name, Text(kind.severity, colour), f"{count:,}", place, kind.fix)
            table.add_row(*[cell if isinstance(cell, Text) else Text(cell) for cell in told])
        console.print(table)
    console.print(report.told, highlight=False)

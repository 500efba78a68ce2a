"""Check data before anything is trained on it: every row, every medium, every pair of splits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from apps import engines

if TYPE_CHECKING:
    from studio.data.findings import Report

EXAMPLE = (
    "triptych check handwriting\n"
    "triptych check calls --model nano-omni --out runs/checked\n"
    "triptych check calls --fix calls-repaired"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", metavar="DATA", help="a .jsonl file, a folder of them, or a shipped name")
    parser.add_argument("--model", metavar="M", help="measure each row with this model's processor, too")
    parser.add_argument("--split", metavar="S", help="only this .jsonl of a folder; without it, all of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for check.json and check.html")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a repaired copy to this new folder")
    parser.add_argument("--json", action="store_true", help="print check.json instead of a table")
    engines.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Check, print a table, write what is asked for; 1 if there are errors."""
    from studio.assets import find_data, find_model
    from studio.data.findings.check import check, data_files
    from studio.data.findings.repair import FILE, repair
    from studio.log import best_log

    engines.choose(options)
    files = data_files(find_data(options.data), options.split)
    gauge = None
    if options.model:
        from studio import families

        gauge = families.gauge(find_model(options.model))
    log = best_log()
    report = check(files, log, gauge=gauge)
    if options.out:
        write(report, options.out)
    if options.json:
        print(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
    else:
        show(report)
        if options.out:
            print(f"written to {options.out / 'check.json'} and {options.out / 'check.html'}")
    if options.fix:
        done = repair(report, options.fix, log)
        log.say(
            f"{done.kept:,} rows kept, {len(done.dropped):,} left out, {len(done.rewritten):,} media mended: "
            f"{options.fix / FILE} lists them"
        )
    return 1 if report.errors else 0


def write(report: Report, folder: Path) -> None:
    """Write check.json and check.html, each whole or not at all."""
    from studio.data.findings.page import findings_page
    from studio.files import atomic_write

    text = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
    atomic_write(folder / "check.json", text + "\n")
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
        first = {finding.kind: finding for finding in reversed(report.findings)}
        for name, count in report.counts().items():
            kind, place = KINDS[name], f"{first[name].file.name}:{first[name].row}"
            colour = "red" if kind.severity == "error" else "yellow"
            told = (name, Text(kind.severity, colour), f"{count:,}", place, kind.fix)
            table.add_row(*[cell if isinstance(cell, Text) else Text(cell) for cell in told])
        console.print(table)
    console.print(report.told, highlight=False)

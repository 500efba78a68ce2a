"""Show rows as a model is trained on them: which tokens are learned, and where the media stand."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

EXAMPLE = (
    "triptych preview handwriting --model nano-omni\n"
    "triptych preview calls --model nano-omni -n 8 --html runs/preview.html\n"
    "triptych preview calls --augment steps.yaml --html runs/augmented.html"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", metavar="DATA", help="rows in any format `triptych ls formats` lists")
    parser.add_argument("--model", metavar="M", help="whose processor shows them")
    parser.add_argument(
        "--augment",
        type=Path,
        metavar="F",
        help="show each step of an augmentation side by side: a YAML file or a run (--model: features, too)",
    )
    parser.add_argument("-n", type=int, default=3, metavar="N", help="how many rows (%(default)s)")
    parser.add_argument("--split", metavar="S", help="which split of a folder (train, if there is one)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead")


def run(options: argparse.Namespace) -> int:
    """Encode the first rows and show them; a row that cannot be shown is told with its sentence."""
    from studio import families
    from studio.assets import find_data, find_model
    from studio.data.findings.source import source_of
    from studio.data.kept_facts import examine
    from studio.errors import ConfigError, DataError
    from studio.files import atomic_write
    from studio.log import QuietLog
    from studio.types import Sample

    if options.n < 1:
        raise ConfigError(f"-n must be at least 1, not {options.n}")
    source = source_of(find_data(options.data), options.split).one_split()
    if options.augment:
        if not source.own:
            raise ConfigError(
                f"--augment takes rows of ours; convert '{options.data}' first: triptych convert"
            )
        return _augmented(options, source.files[-1])
    if not options.model:
        raise ConfigError("--model must be given: the rows are shown as its processor makes them")
    gauge = families.gauge(find_model(options.model))

    from apps.preview import Row, preview_page, row_of, terminal

    with source.opened() as read:
        rows: list[Row] = []
        for _, found in islice(read(), options.n):
            if not isinstance(found, Sample):
                rows.append(Row(where=f"{found.file.name}:{found.row}", problem=found.message))
                continue
            try:
                rows.append(row_of(found, gauge))
            except DataError as error:
                rows.append(Row(where=f"{found.file.name}:{found.line}", problem=str(error)))
        if not rows:
            raise DataError(f"data file '{source.path}' holds no samples")
        if options.html:
            media = examine([medium for row in rows for medium in row.media], QuietLog())
            title = f"{source.path.absolute().parent.name}/{source.path.name}"
            atomic_write(options.html, preview_page(title, rows, media))
            print(f"written to {options.html}")
            return 0

    from rich.console import Console

    console = Console(highlight=False)
    if not source.own:
        console.print(f"{options.data} is {source.format}: {source.why}", style="dim")
    for row in rows:
        console.print(terminal(row))
    console.print("green bold: trained; dim: read only; yellow: places of a medium", style="dim")
    return 0


def _augmented(options: argparse.Namespace, file: Path) -> int:
    """Write a page of what an augmentation makes of the first rows."""
    from apps.augment_page import augment_page, read_file
    from studio import families
    from studio.assets import find_model
    from studio.augment._steps import check_steps
    from studio.data import load_data
    from studio.errors import ConfigError
    from studio.files import atomic_write

    if not options.html:
        raise ConfigError("--augment needs --html FILE: pictures and sounds are shown on a page")
    steps, seed = read_file(options.augment)
    samples = load_data(file)
    check_steps(steps, samples)
    gauge = families.gauge(find_model(options.model)) if options.model else None
    rows = list(enumerate(samples))[: options.n]
    title = f"{file.parent.name}/{file.name}, augmented"
    atomic_write(options.html, augment_page(title, rows, steps, seed, gauge))
    print(f"written to {options.html}")
    return 0

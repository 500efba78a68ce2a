"""Write the card of a data set: sources, licences, hashes, counts, groups, and the steps that made it.

Without --out it is shown; with it, DIR gets croissant.json (docs.mlcommons.org/croissant) and README.md. The
card beside the rows speaks for those that name no source or licence themselves: a run keeps what it says, and
`triptych show RUN` tells it. What an earlier card said of the set stays, unless an option says otherwise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

EXAMPLE = (
    "triptych card handwriting\n"
    "triptych card calls --license CC-BY-4.0 --source 'recorded in our own workshop' --out calls"
)
ABOUT = {
    "name": "what the set is called",
    "description": "what it holds, in a sentence or two",
    "license": "its licence, best by SPDX identifier; rows may name their own",
    "source": "where it is from and how it was collected; rows may name their own",
    "creator": "who made it",
    "url": "where it is published",
    "deidentified": "what was done about persons in it",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", metavar="DATA", help="a data file, a folder of them, or a shipped name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the card here; best beside the rows")
    for name, meaning in ABOUT.items():
        parser.add_argument(f"--{name}", metavar="TEXT", help=meaning)
    parser.add_argument("--json", action="store_true", help="print croissant.json")


def run(options: argparse.Namespace) -> int:
    """Make the card, and print or write it."""
    from studio.assets import find_data
    from studio.data import load_data
    from studio.data.card import croissant, make_card, readme, write_card
    from studio.data.findings.source import data_files
    from studio.data.provenance import read_about, steps_applied

    files = [file.resolve() for file in data_files(find_data(options.data))]
    folder = files[0].parent
    samples = [load_data(file) for file in files]
    given = {name: value for name in ABOUT if (value := getattr(options, name)) is not None}
    about = replace(read_about(folder, [sample for rows in samples for sample in rows]), **given)
    card = make_card(files, samples, about, steps_applied(folder))
    if options.out:
        write_card(card, options.out)
    if options.json:
        print(json.dumps(croissant(card, options.out or folder), indent=2, ensure_ascii=False))
    elif options.out:
        print(f"written to {options.out / 'croissant.json'} and {options.out / 'README.md'}")
    else:
        print(readme(card), end="")
    return 0

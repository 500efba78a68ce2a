"""Watch models, an endpoint or inputs: evaluate what is new, keep a history, tell what got worse."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

EXAMPLE = "triptych watch --reports reports   (what experts called wrong in the app, as data to learn from)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--reports", type=Path, metavar="DIR", help="write the app's reports of wrong answers as a data set"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("TRIPTYCH_DB", "sqlite:///runs/triptych.db"),
        help="with --reports: where the app keeps them (TRIPTYCH_DB, or sqlite:///runs/triptych.db)",
    )
    parser.add_argument(
        "--media", type=Path, metavar="DIR", help="with --reports: the app's media (FILE.media of its SQLite)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(options: argparse.Namespace) -> int:
    """Watch, or write the reports."""
    return _export(options)


def _export(options: argparse.Namespace) -> int:
    from studio.errors import TriptychError
    from studio.faults import export_faults
    from studio.store import Store, media_folder

    scheme, _, file = options.store.partition(":///")
    if scheme.startswith("sqlite") and not Path(file.partition("?")[0]).exists():
        raise TriptychError(f"there is no store {file}; triptych app makes one, and --store names another")
    with Store(options.store) as store:
        counts = export_faults(store, options.media or media_folder(options.store), options.reports)
    told = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    print(json.dumps(counts) if options.json else f"{options.reports}: {told}")
    return 0

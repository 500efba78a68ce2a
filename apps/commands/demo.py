"""Do the whole thing once: fine-tune four experts, merge them, measure all, open the compare app."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "triptych demo --no-app\ntriptych demo --out runs/demo --port 7860"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--no-app", action="store_true", help="end after the report, open no app")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder for all results (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port of the app (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the demo; finished stages of an earlier one are used again."""
    from apps.demo import demo
    from studio.log import best_log

    demo(options.out, not options.no_app, options.port, best_log())
    return 0

"""The options of every command that can work on data by several processes, or on a cluster."""

from __future__ import annotations

import argparse
import os


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--engine`` and ``--workers``."""
    parser.add_argument(
        "--engine",
        metavar="E",
        help="where data is worked on: local (processes of this machine) or ray (the cluster at RAY_ADDRESS)",
    )
    parser.add_argument(
        "--workers", metavar="N", help="how many processes (0: as many as processors; 1: only this one)"
    )


def choose(options: argparse.Namespace) -> None:
    """Let the options decide for this command and for the processes that it starts.

    Raises:
        ConfigError: for an unknown engine or a wrong number; `TriptychError` if Ray is not installed.
    """
    from studio.shardwork import engine

    chosen = engine(options.engine, options.workers)
    if chosen.name == "ray":
        from studio.shardwork_ray import imported

        imported()
    if options.engine:
        os.environ["TRIPTYCH_ENGINE"] = chosen.name
    if options.workers:
        os.environ["TRIPTYCH_WORKERS"] = str(chosen.workers)

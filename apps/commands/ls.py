"""List what there is: recipes, methods of merging and training, families, metrics, formats, models, data."""

from __future__ import annotations

import argparse

from studio import plugins
from studio.assets import shipped
from studio.errors import UnknownName
from studio.methods import METHODS

EXAMPLE = "triptych ls\ntriptych ls recipes methods"
SHELVES = ("models", "data", "training")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    rooms = (*plugins.ROOMS, *SHELVES)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"only these: {', '.join(rooms)}")


def run(options: argparse.Namespace) -> int:
    """Print each room with its names and their summaries; nothing heavy is imported."""
    rooms = (*plugins.ROOMS, *SHELVES)
    for room in options.rooms:
        if room not in rooms:
            raise UnknownName("room", room, rooms)
    for room in options.rooms or rooms:
        print(room)
        if room == "training":
            rows = [(name, found.about) for name, found in METHODS.items()]
        elif room in SHELVES:
            rows = [(name, f"shipped under assets/{room}") for name in shipped(room)]
        else:
            rows = [(name, plugins.summary(room, name)) for name in plugins.names(room)]
        width = max((len(name) for name, _ in rows), default=0)
        for name, summary in rows or [("(none)", "")]:
            print(f"  {name:<{width}}  {summary}".rstrip())
    return 0

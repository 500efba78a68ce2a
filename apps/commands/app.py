"""Open the web page on which people compare variants of a model side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apps.choices import memory_argument, memory_of, model_arguments, one_base, read_choices

if TYPE_CHECKING:
    from studio.types import Sample

EXAMPLE = (
    "triptych app   (the shipped base and every adapter made on it under runs/)\n"
    "triptych app nano-omni nano-omni+runs/handwriting/adapter ties=runs/merged --port 7860\n"
    "triptych app --blind --accounts db --host 0.0.0.0   (after triptych users add NAME)\n"
    "triptych app --accounts header:X-Remote-User --proxy 127.0.0.1 --name compare.example.org"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_arguments(parser, nargs="*")
    parser.add_argument("--port", type=int, default=7860, help="first port to try (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    memory_argument(parser)
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("TRIPTYCH_DB", "sqlite:///runs/triptych.db"),
        help="where verdicts are kept (TRIPTYCH_DB, or sqlite:///runs/triptych.db)",
    )
    parser.add_argument("--browser", action="store_true", help="open a browser window as well")
    parser.add_argument(
        "--blind",
        action="store_true",
        help="show no variant's name before the verdict, and let experts judge",
    )
    parser.add_argument(
        "--accounts",
        metavar="db|FILE|header:NAME",
        help="who may come in: accounts of the store or of a file (triptych users), or whom a proxy names",
    )
    parser.add_argument(
        "--no-accounts", action="store_true", help="beyond this machine: let everyone in, as an expert"
    )
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a reverse proxy whose word counts: an address or a network; may be said again",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name under which people call the app, as the proxy passes it on; may be said again",
    )


def run(options: argparse.Namespace) -> int:
    """Load the variants and serve the page until Ctrl-C."""
    from studio.errors import TriptychError

    texts = options.models or _found(Path("runs"))
    choices = read_choices(texts)
    if len(choices) < 2:
        raise TriptychError(
            "two variants or more are needed to compare, for example: triptych app nano-omni runs/handwriting"
        )
    base, variants = one_base(choices)

    from apps.web import gates, launch
    from apps.web.server import is_loopback
    from studio.assets import find_data, shipped
    from studio.data import load_data
    from studio.families import detect
    from studio.training.threads import set_threads
    from studio.variants import Engine

    gates.settle(options.accounts, local=is_loopback(options.host), guests=options.no_accounts)
    set_threads()
    memory = memory_of(options)
    takes = detect(base).modalities
    examples = {name: load_data(find_data(name), split="test")[:50] for name in shipped("data")}
    launch(
        Engine(base, variants, memory=memory),
        data={name: samples for name, samples in examples.items() if _needs(samples) <= takes},
        store_url=options.store,
        host=options.host,
        port=options.port,
        open_browser=options.browser,
        blind=options.blind,
        accounts=options.accounts,
        guests=options.no_accounts,
        proxies=options.proxy,
        names=options.name,
    )
    return 0


def _needs(samples: Sequence[Sample]) -> set[str]:
    """Return the kinds of input that the samples hold."""
    images = {"image" for sample in samples if sample.images}
    return images | {"audio" for sample in samples if sample.sounds}


def _found(runs: Path) -> list[str]:
    """Return the shipped base and the adapters under ``runs`` that were made on it."""
    from apps.choices import base_of
    from studio.assets import asset
    from studio.errors import TriptychError

    nano = asset("models/nano-omni")
    texts = ["nano-omni"]
    for config in sorted(runs.rglob("adapter_config.json")):
        if "last" in config.parts or any(part.startswith(".") for part in config.parts):
            continue  # a state to go on from, or a write that has not ended
        try:
            if base_of(config.parent).resolve() == nano.resolve():
                texts.append(f"nano-omni+{config.parent}")
        except TriptychError:
            continue
    return texts

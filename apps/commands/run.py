"""Run a recipe: fine-tune a model, make data, train the base; settings as key=value."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from apps import engines
from studio import config, plugins
from studio.errors import ConfigError

EXAMPLE = (
    "triptych run sft data=handwriting output=runs/handwriting max_steps=200\n"
    "triptych run sft --config runs/handwriting output=runs/again seed=1   (repeat a run)\n"
    "triptych run sft --preset smoke\n"
    "triptych run sft data=handwriting --nproc 2   (two processes of this machine; several: torchrun)\n"
    "triptych show sft   (all settings of a recipe)"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {', '.join(plugins.names('recipes'))}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="a setting, as in lr=1e-4")
    parser.add_argument("--config", type=Path, metavar="F", help="settings from a YAML file or a run folder")
    parser.add_argument("--preset", metavar="P", help="settings the recipe has a name for, such as smoke")
    parser.add_argument(
        "--nproc",
        type=int,
        metavar="N",
        help="processes that train together, each on a CUDA device of its own where there are any (1); "
        "torchrun and its like count by themselves",
    )
    engines.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Build the configuration, run the recipe and print what came of it."""
    from studio.launch import together
    from studio.log import best_log

    engines.choose(options)
    recipe = plugins.load("recipes", options.recipe)
    settings = config.load(
        recipe.Config,
        file=options.config,
        overrides=options.settings,
        preset=options.preset,
        presets=recipe.PRESETS,
    )
    nproc = 1 if options.nproc is None else options.nproc
    if nproc != 1 and not getattr(recipe, "PARALLEL", False):
        raise ConfigError(f"{options.recipe} runs in one process; leave --nproc out")
    with together(nproc, "apps.commands.run", command(options)):
        result = recipe.run(settings, best_log())
    if os.environ.get("RANK", "0") == "0":  # of several processes one reports
        figures = "".join(f"  {name} {value:.4g}" for name, value in result.metrics.items())
        print(f"{result.folder}{figures}")
    return 0


def command(options: argparse.Namespace) -> list[str]:
    """Return the command line of one process among several."""
    named = {"--config": options.config, "--preset": options.preset}
    given = [word for name, value in named.items() if value is not None for word in (name, str(value))]
    return ["run", options.recipe, *options.settings, *given]


if __name__ == "__main__":  # as one of several processes, which tells its arguments
    from apps.cli import main
    from studio.children import follow

    status = main(follow())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that waits for the first process need not

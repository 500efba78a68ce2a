"""Run a recipe: fine-tune a model, make data, train the base; settings as key=value."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from apps import engines
from studio import config, plugins

EXAMPLE = (
    "triptych run sft data=handwriting output=runs/handwriting max_steps=200\n"
    "triptych run sft --config runs/handwriting output=runs/again seed=1   (repeat a run)\n"
    "triptych run sft --preset smoke\n"
    "triptych show sft   (all settings of a recipe)"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {', '.join(plugins.names('recipes'))}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="a setting, as in lr=1e-4")
    parser.add_argument("--config", type=Path, metavar="F", help="settings from a YAML file or a run folder")
    parser.add_argument("--preset", metavar="P", help="settings the recipe has a name for, such as smoke")
    engines.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Build the configuration, run the recipe and print what came of it."""
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
    result = recipe.run(settings, best_log())
    if os.environ.get("RANK", "0") == "0":  # of several processes one reports
        figures = "".join(f"  {name} {value:.4g}" for name, value in result.metrics.items())
        print(f"{result.folder}{figures}")
    return 0

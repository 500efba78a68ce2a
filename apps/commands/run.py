"""Run a recipe: fine-tune a model, make data, train the base; settings as key=value."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps import engines
from apps.comma_lists import split_lists
from studio import config, plugins
from studio.errors import ConfigError

EXAMPLE = (
    "triptych run sft data=handwriting output=runs/handwriting max_steps=200\n"
    "triptych run sft --config runs/handwriting output=runs/again seed=1   (repeat a run)\n"
    "triptych run sft --preset smoke\n"
    "triptych run sft data=handwriting lr=1e-4,2e-4,5e-4 adapter.r=8,16   (a run for each combination)\n"
    "triptych run sft data=handwriting --find-lr   (which learning rate to begin with)\n"
    "triptych run sft data=handwriting --dry-run   (memory and time it will take, from two real steps)\n"
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
    parser.add_argument(
        "--find-lr", action="store_true", help="train nothing: look for the learning rate of this training"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="two real steps, thrown away: what learns, the memory at its peak, the time of the run",
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: as JSON")
    engines.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Build the configuration, run the recipe and print what came of it."""
    from studio.launch import together
    from studio.log import best_log

    engines.choose(options)
    recipe = plugins.load("recipes", options.recipe)
    plain, lists = split_lists(recipe.Config, options.settings)
    settings = _settings(recipe, options, plain)
    if options.find_lr:
        recipe, settings = _finder(options, settings, lists)
    elif lists:
        recipe, settings = _grid(recipe, options, plain, lists)
    nproc = 1 if options.nproc is None else options.nproc
    if nproc != 1 and not getattr(recipe, "PARALLEL", False):
        name = recipe.__name__.rpartition(".")[2]
        raise ConfigError(f"{name} runs in one process; leave --nproc out")
    if options.json and not options.dry_run:
        raise ConfigError("--json goes with --dry-run; what a run finds stands in its run.json")
    if options.dry_run and not hasattr(recipe, "estimate"):
        raise ConfigError(f"{recipe.__name__.rpartition('.')[2]} has no dry run; --dry-run is for sft")
    with together(nproc, "apps.commands.run", command(options)):
        if options.dry_run:
            return _tell(recipe.estimate(settings, best_log()), options.json)
        result = recipe.run(settings, best_log())
    if os.environ.get("RANK", "0") == "0":  # of several processes one reports
        figures = "".join(f"  {name} {value:.4g}" for name, value in result.metrics.items())
        print(f"{result.folder}{figures}")
    return 0


def _tell(estimate: Any, as_json: bool) -> int:
    """Print what a run will take; of several processes one does."""
    from studio.training.rehearsal import lines

    if os.environ.get("RANK", "0") == "0":
        told = json.dumps(dataclasses.asdict(estimate), indent=2) if as_json else "\n".join(lines(estimate))
        print(told)
    return 0


def _settings(recipe: Any, options: argparse.Namespace, overrides: Sequence[str]) -> Any:
    """Return the recipe's configuration from preset, file and overrides."""
    return config.load(
        recipe.Config,
        file=options.config,
        overrides=overrides,
        preset=options.preset,
        presets=recipe.PRESETS,
    )


def _grid(recipe: Any, options: argparse.Namespace, plain: list[str], lists: dict[str, list[str]]) -> Any:
    """Return the recipe sweep and its settings for all combinations of listed values, each one checked."""
    if "output" not in (setting.name for setting in config.settings(recipe.Config)):
        raise ConfigError(f"{options.recipe} has no output, and a grid needs one for each of its runs")
    if "output" in lists:
        raise ConfigError("output is one folder, for the whole grid; a comma in its name is written '\\,'")
    base = config.to_dict(_settings(recipe, options, plain))
    output = base.pop("output")
    sweep = plugins.load("recipes", "sweep")
    space = {
        key: [_entry(_settings(recipe, options, [*plain, f"{key}={value}"]), key) for value in values]
        for key, values in lists.items()
    }
    return sweep, sweep.Config(
        recipe=options.recipe, settings=base, space=space, search="grid", output=Path(output)
    )


def _entry(settings: Any, key: str) -> Any:
    """Return what a dotted setting is."""
    found: Any = config.to_dict(settings)
    for name in key.split("."):
        found = found[name]
    return found


def _finder(options: argparse.Namespace, settings: Any, lists: dict[str, list[str]]) -> Any:
    """Return the recipe find_lr and its settings for the training that was asked for."""
    if options.recipe != "sft":
        raise ConfigError(f"--find-lr is for the recipe sft, not {options.recipe}")
    if lists:
        raise ConfigError(f"--find-lr looks at one training, but {next(iter(lists))} lists several values")
    finder = plugins.load("recipes", "find_lr")
    output = settings.output.with_name(f"{settings.output.name}-lr")
    return finder, finder.Config(settings=config.to_dict(settings), output=output)


def command(options: argparse.Namespace) -> list[str]:
    """Return the command line of one process among several."""
    named = {"--config": options.config, "--preset": options.preset}
    given = [word for name, value in named.items() if value is not None for word in (name, str(value))]
    flags = ["--dry-run"] if options.dry_run else []
    return ["run", options.recipe, *options.settings, *given, *flags]


if __name__ == "__main__":  # as one of several processes, which tells its arguments
    from apps.cli import main
    from studio.children import follow

    status = main(follow())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that waits for the first process need not

"""The queue of training runs: each in a process of its own, one after the other, whatever else ends.

list             all jobs, and where they stand (also without any action)
add RECIPE ...   queue `triptych run RECIPE ...`; it starts at once if nothing runs
stop JOB         save the state and end; with --now kill it, and go on later from the last saved state
resume JOB       let it wait for another turn; it goes on where it was
remove JOB       take it off the list; what it wrote stays
limit N          how many run at once (1); 0 starts none
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from apps.queue import Queue, Standing

EXAMPLE = (
    "triptych queue add sft data=textiles output=runs/textiles\n"
    "triptych queue\n"
    "triptych queue stop 1\n"
    "triptych queue resume 1"
)
ACTIONS = ("list", "add", "stop", "resume", "remove", "limit")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", default="list", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("words", nargs="*", metavar="WORD", help="a job, or a recipe and its settings")
    parser.add_argument("--config", type=Path, metavar="F", help="add: settings from a YAML file or a run")
    parser.add_argument("--preset", metavar="P", help="add: settings the recipe has a name for, as in smoke")
    parser.add_argument("--name", metavar="N", help="add: what the job is called (its output's name)")
    parser.add_argument("--now", action="store_true", help="stop: do not wait for the step to end")
    parser.add_argument(
        "--queue",
        type=Path,
        metavar="DIR",
        default=Path("runs/queue"),
        help="the queue's folder (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON")


def run(options: argparse.Namespace) -> int:
    """Do what is asked for, and print the jobs that are concerned."""
    from apps.queue import Queue

    if options.action not in ACTIONS:
        raise UnknownName("action", options.action, ACTIONS)
    for given, flag, action in (
        (options.config, "--config", "add"),
        (options.preset, "--preset", "add"),
        (options.name, "--name", "add"),
        (options.now, "--now", "stop"),
    ):
        if given and options.action != action:
            raise ConfigError(f"{flag} goes with queue {action}")
    queue = Queue(options.queue)
    if options.action == "list":
        if options.words:
            raise ConfigError(f"queue list takes no '{options.words[0]}'")
        show(queue.go_on(), options.json)
    elif options.action == "add":
        one = _added(queue, options)
        queue.go_on()
        show([queue.job(one.job.id)], options.json)
    elif options.action == "limit":
        queue.set_limit(_number(options.words))
        queue.go_on()
    else:
        if not options.words:
            raise ConfigError(f"queue {options.action} needs a job, as in: triptych queue {options.action} 1")
        acts = {"resume": queue.resume, "remove": queue.remove}
        for which in options.words:
            one = (
                queue.stop(which, now=options.now)
                if options.action == "stop"
                else acts[options.action](which)
            )
            queue.go_on()
            if options.action == "remove":
                print(f"removed {one.job.id}; {one.job.output} is as it was")
            else:
                show([queue.job(one.job.id)], options.json)
    return 0


def _added(queue: Queue, options: argparse.Namespace) -> Standing:
    """Put a job at the end once its settings are known to be good."""
    from studio import config, plugins

    if not options.words:
        raise ConfigError("queue add needs a recipe, as in: triptych queue add sft data=textiles")
    name, *settings = options.words
    recipe = plugins.load("recipes", name)
    found = config.load(
        recipe.Config,
        file=options.config,
        overrides=settings,
        preset=options.preset,
        presets=recipe.PRESETS,
    )
    if not hasattr(found, "output"):
        raise ConfigError(f"the recipe {name} has no output, and so no folder for a job")
    words = [name, *settings]
    if options.preset:
        words += ["--preset", options.preset]
    if options.config:
        words += ["--config", str(options.config.absolute())]
    output = Path(found.output)
    return queue.add(title=options.name or output.name, words=words, output=output)


def _number(words: list[str]) -> int:
    if len(words) != 1 or not words[0].isdecimal():
        raise ConfigError("queue limit needs a number, as in: triptych queue limit 2")
    return int(words[0])


def show(standings: list[Standing], as_json: bool) -> None:
    """Print jobs, one a line."""
    if as_json:
        print(json.dumps([_told(one) for one in standings], indent=2, ensure_ascii=False))
        return
    if not standings:
        print("no jobs; triptych queue add sft data=textiles output=runs/textiles adds one")
    for one in standings:
        stage = one.stage()
        at = (
            f"  {stage.name} {stage.done}/{stage.total}" if one.state.name == "running" and stage.name else ""
        )
        print(f"{one.job.id}  {one.told}{at}  {one.job.output}")
        for line in one.state.reason.splitlines():
            print(f"    {line}")


def _told(one: Standing) -> dict[str, object]:
    stage = one.stage()
    return {
        "job": one.job.id,
        "title": one.job.title,
        "state": one.state.name,
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.state.since)),
        "output": one.job.output,
        "command": ["triptych", "run", *one.job.words],
        "stage": {"name": stage.name, "done": stage.done, "total": stage.total, "unit": stage.unit},
        "pid": one.state.pid,
        "reason": one.state.reason,
    }

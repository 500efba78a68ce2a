"""Check this installation, or with --app whether a running app is safe: its doors, files, settings."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

EXAMPLE = (
    "triptych doctor   (Python, torch, devices, memory, packages, shipped files, browser)\n"
    "triptych doctor --app http://127.0.0.1:7860 --variant ties --variant linear\n"
    "triptych doctor --app https://compare.example.org --user mara --json < password.txt"
)
Row = tuple[Literal["ok", "note", "broken"], str, str]
IMPORTS = ("torch", "torchvision", "torchaudio", "transformers", "peft", "accelerate", "soundfile", "gradio")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--app", metavar="URL", help="check a running app instead; 1 if a fault is found")
    parser.add_argument(
        "--user", metavar="NAME", help="sign in to it first; the password is asked for, or read"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that must not be served before a verdict, where the app is blind; may be said again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table, with --app")


def run(options: argparse.Namespace) -> int:
    """Print a line for each check; 1 if something that is needed is broken, or a door is open."""
    if options.app:
        return _app(options)
    if options.user or options.variant or options.json:
        from studio.errors import ConfigError

        raise ConfigError("--user, --variant and --json belong to --app URL")
    broken = 0
    for check in CHECKS:
        for state, what, found in check():
            print(f"{state:<7} {what:<14} {found}", flush=True)
            broken += state == "broken"
    print("something that is needed is broken" if broken else "all that is needed is here")
    return 1 if broken else 0


def _app(options: argparse.Namespace) -> int:
    """Ask a running app from outside, and print what is found."""
    from apps import door_checks
    from apps.door_check import Caller, inspect

    caller = Caller(options.app)
    found = []
    if options.user:
        from apps.commands.users import read_password

        found.append(door_checks.cookies(caller, caller.sign_in(options.user, read_password(options.user))))
    found += inspect(caller, door_checks.CHECKS)
    if options.variant:
        found.append(door_checks.names(caller, options.variant))
    faults = sum(one.state == "fault" for one in found)
    if options.json:
        told = [{"name": one.name, "state": one.state, "found": one.found} for one in found]
        print(json.dumps({"app": options.app, "faults": faults, "checks": told}, indent=1))
        return 1 if faults else 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(title=f"{options.app}, from outside", title_justify="left")
    for column in ("setting", "", "found"):
        view.add_column(column)
    for one in found:
        style = {"ok": "green", "fault": "bold red", "note": "yellow"}[one.state]
        view.add_row(one.name, Text(one.state, style), Text(one.found))
    Console().print(view)
    print(f"{faults} {'fault' if faults == 1 else 'faults'} found" if faults else "no fault found")
    return 1 if faults else 0


def _python() -> Iterator[Row]:
    new = sys.version_info >= (3, 11)
    yield (
        "ok" if new else "broken",
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    )


def _packages() -> Iterator[Row]:
    """Hold the installed versions against what this distribution asks for."""
    from packaging.requirements import Requirement

    try:
        asked = requires("triptych") or []
    except PackageNotFoundError:
        yield "broken", "triptych", "not installed; run `pip install -e .`"
        return
    for requirement in map(Requirement, asked):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield "broken", requirement.name, f"missing; {requirement} is needed"
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        if fits:
            yield "ok", requirement.name, found
        else:
            yield "broken", requirement.name, f"{found}; {requirement} is needed"


def _imports() -> Iterator[Row]:
    """Import what has parts in machine code: a wrong pair of versions shows only then."""
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            yield "broken", name, f"does not import: {type(error).__name__}: {str(error).splitlines()[0]}"


def _devices() -> Iterator[Row]:
    try:
        import torch
    except Exception:
        return  # told by `_imports`
    from studio.training.threads import physical_cores

    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    yield "ok", "threads", f"{physical_cores()} physical cores; OMP_NUM_THREADS is {asked}"
    if not torch.cuda.is_available():
        yield "note", "CUDA", "no device; everything runs on the CPU"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield "ok", f"cuda:{index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def _memory() -> Iterator[Row]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "ok" if total >= 6 else "note", "memory", f"{total:.0f} GiB; the demo needs 6"
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    yield "ok" if free >= 2 else "note", "disk", f"{free:.0f} GiB free here"


def _assets() -> Iterator[Row]:
    from studio.assets import find_data, find_model, shipped
    from studio.errors import TriptychError

    try:
        from studio.checkpoint import Checkpoint

        base = Checkpoint(find_model("nano-omni"))
        yield "ok", "nano-omni", f"{len(base.names())} tensors, fingerprint {base.fingerprint()[:12]}"
    except (TriptychError, ImportError) as error:
        yield "broken", "nano-omni", str(error)
    for name in ("handwriting", "textiles", "commands", "helpdesk"):
        try:
            parts = [split for split in ("train", "test") if (find_data(name) / f"{split}.jsonl").is_file()]
            yield "ok" if len(parts) == 2 else "broken", name, ", ".join(parts) or "no rows"
        except TriptychError as error:
            yield "broken", name, str(error)
    more = sorted(set(shipped("data")) - {"handwriting", "textiles", "commands", "helpdesk"})
    if more:
        yield "ok", "more data", ", ".join(more)


def _programs() -> Iterator[Row]:
    for what, names, use in (
        ("chromium", ("chromium", "chromium-browser", "google-chrome"), "the browser test"),
        ("espeak-ng", ("espeak-ng",), "making the spoken sample data again"),
    ):
        found = next(filter(None, map(shutil.which, names)), None)
        yield "ok" if found else "note", what, found or f"not found; only {use} needs it"


CHECKS: tuple[Callable[[], Iterator[Row]], ...] = (
    _python,
    _packages,
    _imports,
    _devices,
    _memory,
    _assets,
    _programs,
)

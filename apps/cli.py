"""The command line: `triptych COMMAND ...`, one file a command in `apps/commands`.

A command's file has a docstring that describes it, an ``EXAMPLE``, ``arguments(parser)`` and
``run(options) -> exit status``. Nothing heavy is imported before a command needs it. A user's mistake is one
sentence and exit status 2; a full disk or a denied write is one sentence and 1; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from studio import plugins
from studio.errors import TriptychError, UnknownName, unknown

#: In the order in which a new user meets them.
COMMANDS = (
    "demo",
    "check",
    "preview",
    "run",
    "queue",
    "report",
    "convert",
    "card",
    "merge",
    "eval",
    "groups",
    "explain",
    "robustness",
    "scores",
    "app",
    "users",
    "questions",
    "votes",
    "watch",
    "serve",
    "ls",
    "show",
    "doctor",
)
#: What the machine refuses, rather than what the program does wrong.
DENIED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Nothing is ever fetched or reported behind the user's back; who wants the hub says so.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        status = _dispatch(given)
        sys.stdout.flush()
        return status
    except TriptychError as error:
        _tell(str(error))
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read our output has left
        return 1
    except Exception as error:
        reason = _denied(error)
        if reason is None:
            raise
        _tell(f"cannot write: {reason}")
        return 1
    except KeyboardInterrupt:
        _tell("stopped; the same command goes on where it can")
        return 130


def _dispatch(given: list[str]) -> int:
    """Find the command and hand it the rest of the line."""
    if not given or (given[0] in ("-h", "--help", "help") and len(given) == 1):
        print(_overview())
        return 0
    name, *rest = [*given[1:], "--help"] if given[0] == "help" else given
    if name in ("-V", "--version"):
        print(f"triptych {_version()}")
        return 0
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    command = importlib.import_module(f"apps.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"triptych {name}",
        description=command.__doc__,
        epilog="example:\n" + "\n".join(f"  {line}" for line in command.EXAMPLE.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    if hasattr(command, "settle"):
        rest = command.settle(parser, rest)
    try:
        options, stray = parser.parse_known_intermixed_args(rest)
    except SystemExit as done:  # argparse has printed the help, or what is wrong
        return int(done.code or 0)
    if stray:
        raise TriptychError(f"{name}: {_stray(parser, stray[0])}")
    return int(command.run(options))


def _stray(parser: argparse.ArgumentParser, argument: str) -> str:
    """Return the sentence about an argument that nothing takes."""
    if not argument.startswith("-"):
        return f"nothing takes the argument '{argument}'"
    return unknown("option", argument.partition("=")[0], parser._option_string_actions)


def _denied(error: Exception) -> str | None:
    """Return what the machine refused, if the error is about that; safetensors only tells a number."""
    if isinstance(error, OSError):
        file = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{file}" if error.errno in DENIED else None
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return os.strerror(int(told[1])) if told and int(told[1]) in DENIED else None


def _overview() -> str:
    """Return what `triptych --help` shows, each command summed up by its own docstring."""
    folder = Path(__file__).parent / "commands"
    lines = [f"  {name:<11}{plugins.first_line(folder / f'{name}.py')}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: triptych COMMAND ...",
            "",
            "Fine-tune vision-language and audio-text models, merge the experts, compare them side by side.",
            "",
            "commands:",
            *lines,
            "",
            "example:",
            "  triptych demo",
            "  triptych run sft data=handwriting output=runs/handwriting",
            "  triptych merge --help",
        ]
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triptych")
    except PackageNotFoundError:
        return "(not installed)"


def _tell(sentence: str) -> None:
    # A name out of a file must not move the cursor or name the window.
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in sentence)
    print(f"triptych: {shown}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

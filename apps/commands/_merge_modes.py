"""What `triptych merge` does instead of merging: one function a mode, each with the options that it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from studio.errors import ConfigError

Mode = Callable[[argparse.Namespace], int]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the modes and the options that only they take."""
    group = parser.add_argument_group("instead of merging")
    group.add_argument("--verify", metavar="OUT", help="tell what no longer agrees with a merge's lock file")
    group.add_argument("--replay", metavar="OUT", help="make a merge again from its lock file, into -o NEW")


def chosen(options: argparse.Namespace) -> Mode | None:
    """Return the mode that is asked for, or None for a merge; `ConfigError` for what does not go together."""
    given = {name for name, value in vars(options).items() if value not in (None, False, [])}
    asked = [name for name in MODES if name in given]
    if len(asked) > 1:
        raise ConfigError(f"{_flag(asked[0])} and {_flag(asked[1])} are two things to do; give one of them")
    if not asked:
        alone = {key for _, takes in MODES.values() for key in takes if key in OWN}
        stray = sorted(given & alone)
        if stray:
            owner = next(name for name, (_, takes) in MODES.items() if stray[0] in takes)
            raise ConfigError(f"{_flag(stray[0])} belongs to {_flag(owner)}")
        return None
    mode, takes = MODES[asked[0]]
    stray = sorted(given - {asked[0], *takes})
    if stray:
        shown = ", ".join(_flag(name) for name in takes) or "nothing else"
        what = f"'{options.models[0]}'" if stray[0] == "models" else _flag(stray[0], options)
        raise ConfigError(f"{_flag(asked[0])} does not take {what}; it takes {shown}")
    if "out" in takes and options.out is None:
        raise ConfigError(f"where to? {_flag(asked[0])} needs -o OUT")
    return mode


def verify(options: argparse.Namespace) -> int:
    """Print each difference from the lock file; 1 if there are any."""
    from mergers import verify

    found = verify(options.verify)
    print("\n".join(found) or f"{options.verify} is what the merge wrote, and its inputs are unchanged")
    return 1 if found else 0


def replay(options: argparse.Namespace) -> int:
    """Make the merge again, and see that it has the same fingerprint."""
    from mergers import replay
    from studio.log import best_log

    report = replay(options.replay, options.out, best_log())
    print(f"{options.out} has the weights of {options.replay}: {report.fingerprint[:12]}")
    return 0


def rank(text: str | None) -> str | int | float | None:
    """Return a rank as a number where it is one; the merge says what is allowed."""
    for kind in (int, float):
        try:
            return kind(text) if text is not None else None
        except ValueError:
            continue
    return text


def folder(text: str) -> Path:
    """Return the folder of a model, or of the adapter that a run made."""
    from apps.choices import adapter_folder, read_choice

    place = Path(text).expanduser()
    adapter = adapter_folder(place) if place.is_dir() else None
    if adapter is not None:  # its base need not be here: most merges of adapters do without
        return adapter
    choice = read_choice(text)
    return choice.adapter or choice.base


def _flag(name: str, options: argparse.Namespace | None = None) -> str:
    """Return an option as it is typed; a setting of a method by its own name."""
    if name == "set" and options is not None:
        return "--" + options.set[0].partition("=")[0].replace("_", "-")
    return "-o OUT" if name == "out" else "--" + name.replace("_", "-")


#: Mode -> what does it, and the options that it takes beside its own.
MODES: dict[str, tuple[Mode, tuple[str, ...]]] = {
    "verify": (verify, ()),
    "replay": (replay, ("out", "resume")),
}
#: Options that no merge takes.
OWN: tuple[str, ...] = ()

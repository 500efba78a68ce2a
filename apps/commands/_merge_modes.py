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
    group.add_argument(
        "--extract-adapter",
        metavar="TUNED",
        help="write what a full fine-tune changed of --base as an adapter of --rank R, a share or lossless",
    )
    group.add_argument(
        "--bake",
        metavar="ADAPTER",
        help="write the base with the adapter in it; of several --base the right one is taken",
    )
    group.add_argument(
        "--reference",
        metavar="MODEL",
        help="with --bake: measure the bases by this model, which has the adapter in it or was its base",
    )
    group.add_argument(
        "--quantised",
        metavar="KIND",
        help="with --bake: how the base was loaded for training: nf4, nf4-double, int8, or auto, which asks "
        "--reference; the values of that are written to OUT-base",
    )
    group.add_argument("--unmerge", metavar="EXPERT", help="take one expert out of a merge again")
    group.add_argument("--from", dest="source", metavar="MERGED", help="with --unmerge: the merge")
    group.add_argument(
        "--diff",
        nargs="+",
        metavar=("A", "B"),
        help="compare two models or adapters, or show what one adapter changes, group by group",
    )
    group.add_argument("--json", action="store_true", help="with --diff: print JSON instead of a table")


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


def extract(options: argparse.Namespace) -> int:
    """Turn a full fine-tune into an adapter, and print what each module keeps."""
    if not options.base or len(options.base) > 1:
        raise ConfigError("what was it made from? --extract-adapter needs one --base")
    if options.rank is None:
        raise ConfigError(
            "how much is to be kept? give --rank 16, a share as --rank 0.99, or --rank lossless"
        )
    tuned, base = folder(options.extract_adapter), folder(options.base[0])

    from mergers import extract
    from studio.log import best_log

    report = extract(
        tuned,
        base,
        options.out,
        rank=rank(options.rank),
        allow=options.allow or (),
        threads=options.threads or 0,
        log=best_log(),
    )
    print(report.text(full=True))
    return 0


def bake(options: argparse.Namespace) -> int:
    """Put an adapter into the right one of its bases."""
    adapter = folder(options.bake)
    bases = [folder(base) for base in options.base or ()]
    reference = folder(options.reference) if options.reference else None

    from mergers import bake
    from studio.log import best_log

    bake(
        adapter,
        options.out,
        bases=bases,
        reference=reference,
        quantised=options.quantised,
        allow=options.allow or (),
        log=best_log(),
        **_resources(options),
    )
    return 0


def unmerge(options: argparse.Namespace) -> int:
    """Take an expert out of a merge; it may be gone itself, and is then found by the end of its path."""
    if options.source is None:
        raise ConfigError("out of what? --unmerge EXPERT needs --from MERGED")
    expert = Path(options.unmerge)
    expert = folder(options.unmerge) if expert.is_dir() else expert

    from mergers import unmerge
    from studio.log import best_log

    allow = options.allow or ()
    unmerge(expert, options.source, options.out, allow=allow, log=best_log(), **_resources(options))
    return 0


def diff(options: argparse.Namespace) -> int:
    """Print what differs, as a table or as JSON."""
    if len(options.diff) > 2:
        raise ConfigError(f"--diff compares two, not {len(options.diff)}")
    if options.base and len(options.base) > 1:
        raise ConfigError(f"--diff takes one --base, not {len(options.base)}")
    sides = [folder(side) for side in options.diff]
    base = folder(options.base[0]) if options.base else None

    import json

    from rich.console import Console

    from apps.commands._diff_table import table
    from mergers import diff
    from studio.log import best_log

    found = diff(*sides, base=base, log=best_log())
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        Console().print(table(found))
    return 0


def _resources(options: argparse.Namespace) -> dict[str, object]:
    """Return what bounds the work of a full model."""
    return {key: getattr(options, key) for key in SIZES}


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
    return {"out": "-o OUT", "source": "--from"}.get(name, "--" + name.replace("_", "-"))


#: What bounds the work of a full model.
SIZES = ("threads", "shard_size", "max_ram")
#: Mode -> what does it, and the options that it takes beside its own.
MODES: dict[str, tuple[Mode, tuple[str, ...]]] = {
    "verify": (verify, ()),
    "replay": (replay, ("out", "resume")),
    "extract_adapter": (extract, ("base", "rank", "out", "allow", "threads")),
    "bake": (bake, ("base", "reference", "quantised", "out", "allow", *SIZES, "resume")),
    "unmerge": (unmerge, ("source", "out", "allow", *SIZES, "resume")),
    "diff": (diff, ("base", "json")),
}
#: Options that no merge takes.
OWN = ("reference", "quantised", "source", "json")

"""Merge models or adapters into one, by a merge file or by flags.

Every --KEY VALUE that is not listed below is a setting of the method, as --density 0.2 is of ties;
`triptych show METHOD` lists them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studio import plugins
from studio.errors import ConfigError

EXAMPLE = (
    "triptych merge --method ties --base nano-omni runs/handwriting:0.6 runs/textiles:0.4 "
    "--density 0.2 -o runs/merged\n"
    "triptych merge merge.yaml -o runs/merged --dry-run"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="FILE.yaml | MODEL[:WEIGHT]",
        help="a merge file, or the models, adapters or runs to merge",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help="folder for the result")
    parser.add_argument("--method", metavar="M", help=f"one of: {', '.join(plugins.names('methods'))}")
    parser.add_argument("--base", metavar="B", help="the model that all of them were made from")
    parser.add_argument("--as", dest="output", metavar="KIND", help="adapter or model (adapter, if all are)")
    parser.add_argument("--rank", metavar="R", help="of adapters: lossless, a number, or a share of energy")
    parser.add_argument("--seed", type=int, metavar="N", help="of the methods that draw at random (0)")
    parser.add_argument("--threads", type=int, metavar="N", help="tensors worked on at a time")
    parser.add_argument("--shard-size", metavar="SIZE", help="largest weight file of a full model, as in 4GB")
    parser.add_argument("--allow", action="append", metavar="CHECK", help="go on although this check objects")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a setting of the method")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and write nothing")


def settle(parser: argparse.ArgumentParser, given: list[str]) -> list[str]:
    """Turn ``--density 0.2`` and ``--density=0.2`` into ``--set density=0.2`` for every key not declared."""
    result: list[str] = []
    rest = iter(given)
    for word in rest:
        key, equals, value = word.partition("=")
        if not word.startswith("--") or key in parser._option_string_actions or word == "--":
            result.append(word)
            continue
        if not equals:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{key} needs a value: {key} VALUE")
        result += ["--set", f"{key[2:].replace('-', '_')}={value}"]
    return result


def run(options: argparse.Namespace) -> int:
    """Read what is asked for, and merge or print the plan."""
    if options.out is None and not options.dry_run:
        raise ConfigError("where to? give -o OUT, or --dry-run to see the plan only")
    if options.method:
        options.method = plugins.canonical("methods", options.method)

    from mergers import MergeSpec, merge, plan
    from studio.log import best_log

    more = {
        "output": options.output,
        "rank": _rank(options.rank),
        "seed": options.seed,
        "threads": options.threads,
        "shard_size": options.shard_size,
        "allow": options.allow,
    }
    base = _model(options.base) if options.base else None
    if any(name.endswith((".yaml", ".yml")) for name in options.models):
        if len(options.models) > 1:
            raise ConfigError("give one merge file, or models; not both")
        changes = {"method": options.method, "base": base, **more}
        if options.set:
            raise ConfigError("the method's settings stand in the merge file, under settings")
        spec = MergeSpec.from_yaml(options.models[0], **changes)
    else:
        if not options.method:
            raise ConfigError(f"give --method, one of: {', '.join(plugins.names('methods'))}")
        spec = MergeSpec.from_flags(
            method=options.method,
            models=[_weighted(model) for model in options.models],
            base=base,
            settings=options.set or (),
            **more,
        )
    if options.dry_run:
        print(plan(spec).text(full=True))
        return 0
    merge(spec, options.out, best_log())
    return 0


def _rank(text: str | None) -> str | int | float | None:
    """Return a rank as a number where it is one; the merge says what is allowed."""
    for kind in (int, float):
        try:
            return kind(text) if text is not None else None
        except ValueError:
            continue
    return text


def _weighted(text: str) -> str:
    """Return MODEL:WEIGHT with the model's folder found."""
    name, colon, weight = text.rpartition(":")
    try:
        float(weight)
    except ValueError:
        return str(_model(text))
    return f"{_model(name)}:{weight}" if colon else str(_model(text))


def _model(text: str) -> Path:
    """Return the folder of a model, or of the adapter that a run made."""
    from apps.choices import read_choice

    choice = read_choice(text)
    return choice.adapter or choice.base

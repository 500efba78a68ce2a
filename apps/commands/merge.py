"""Merge models or adapters into one, by a merge file or by flags.

Every --KEY VALUE that is not listed below is a setting of the method, as --density 0.2 is of ties;
`triptych show METHOD` lists them. The options under "instead of merging" do something else with what merges
are made of; one at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands import _merge_modes as modes
from studio import plugins
from studio.errors import ConfigError

if TYPE_CHECKING:
    from mergers import MergeSpec

EXAMPLE = (
    "triptych merge --method ties --base nano-omni runs/handwriting:0.6 runs/textiles:0.4 "
    "--density 0.2 -o runs/merged\n"
    "triptych merge --method linear runs/handwriting runs/textiles -o runs/merged "
    "--rule 'vision: weight=[0.8,0.2]' --rule 'llm.layers.0-1: method=ties density=0.3' "
    "--rule 'norms: freeze'\n"
    "triptych merge merge.yaml -o runs/merged --dry-run\n"
    "triptych merge merge.yaml -o runs/merged --diagnose runs/diagnosis\n"
    "torchrun --nproc-per-node 2 --no-python triptych merge merge.yaml -o runs/merged --device cuda\n"
    "triptych merge --verify runs/merged\n"
    "triptych merge --replay runs/merged -o runs/again\n"
    "triptych merge --extract-adapter runs/full/model --base nano-omni --rank 16 -o runs/adapter\n"
    "triptych merge --bake runs/handwriting --base nano-omni -o runs/baked\n"
    "triptych merge --bake runs/qlora --base models/full --quantised nf4-double -o runs/baked\n"
    "triptych merge --unmerge runs/textiles --from runs/merged -o runs/without\n"
    "triptych merge --diff runs/handwriting runs/textiles"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="FILE.yaml | MODEL[:WEIGHT]",
        help="a merge file, or the models, adapters or runs to merge",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help="folder for the result")
    parser.add_argument("--method", metavar="M", help=f"one of: {', '.join(plugins.names('methods'))}")
    parser.add_argument("--base", action="append", metavar="B", help="the model that all were made from")
    parser.add_argument("--as", dest="output", metavar="KIND", help="adapter or model (adapter, if all are)")
    parser.add_argument("--rank", metavar="R", help="of adapters: lossless, a number, or a share of energy")
    parser.add_argument("--seed", type=int, metavar="N", help="of the methods that draw at random (0)")
    parser.add_argument("--threads", type=int, metavar="N", help="tensors worked on at a time")
    parser.add_argument(
        "--nproc",
        type=int,
        metavar="N",
        help="processes that share a full model's tensors (1); torchrun and its like count by themselves",
    )
    parser.add_argument(
        "--device",
        metavar="D",
        help="where a full model is merged: cpu, cuda:N, or cuda, of which each process takes its own (cpu)",
    )
    parser.add_argument("--max-ram", metavar="SIZE", help="memory that a full model's merge may take: 1GB")
    parser.add_argument("--shard-size", metavar="SIZE", help="largest weight file of a full model, as in 4GB")
    parser.add_argument("--allow", action="append", metavar="CHECK", help="go on although this check objects")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a setting of the method")
    parser.add_argument("--preset", metavar="P", help="whose conventions: paper, mergekit or peft")
    parser.add_argument(
        "--rule",
        action="append",
        metavar="'WHERE: KEY=VALUE'",
        help="what holds for some tensors instead: WHERE is a tower (vision, audio, projector, llm), its "
        "layers (llm.layers.0-3), embeddings, norms, head or re:PATTERN, several with commas; then settings, "
        "method=M, or freeze for the base's values. May be given again: the first that matches decides",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done and what it will cost in memory, disk and time; write nothing",
    )
    parser.add_argument(
        "--diagnose",
        type=Path,
        metavar="DIR",
        help="measure the experts and the result, and write a page of heat maps there; also with --dry-run",
    )
    parser.add_argument(
        "--selftest",
        action="store_true",
        help="of a full model: load the result, and compare what loads and answers with the base",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where the same command was stopped; it does so anyway, to the same bytes",
    )
    modes.arguments(parser)


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
    """Do what is asked for instead of merging; else read the merge, and run it or print the plan."""
    mode = modes.chosen(options)
    if mode is not None:
        return mode(options)
    if not options.models:
        raise ConfigError("what? give a merge file, or models, adapters or runs; `triptych merge --help`")
    if options.out is None and not options.dry_run:
        raise ConfigError("where to? give -o OUT, or --dry-run to see the plan only")
    if options.base and len(options.base) > 1:
        raise ConfigError(f"a merge has one --base, not {len(options.base)}")
    if options.diagnose and options.diagnose.is_file():
        raise ConfigError(f"--diagnose {options.diagnose} is a file; give a folder for the page")
    if options.method:
        options.method = plugins.canonical("methods", options.method)

    from mergers import MergeSpec, Ranks, estimate, merge, plan
    from studio.log import QuietLog, best_log

    ranks = Ranks.of(1 if options.nproc is None else options.nproc, options.device or "cpu")
    more = {
        "output": options.output,
        "rank": modes.rank(options.rank),
        "seed": options.seed,
        "threads": options.threads,
        "shard_size": options.shard_size,
        "max_ram": options.max_ram,
        "allow": options.allow,
        "selftest": options.selftest or None,
    }
    base = modes.folder(options.base[0]) if options.base else None
    if any(name.endswith((".yaml", ".yml")) for name in options.models):
        if len(options.models) > 1:
            raise ConfigError("give one merge file, or models; not both")
        changes = {
            "method": options.method,
            "base": base,
            "rules": options.rule or (),
            "preset": options.preset,
            **more,
        }
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
            settings=[*(options.set or ()), *([f"preset={options.preset}"] if options.preset else [])],
            rules=options.rule,
            **more,
        )
    if ranks.rank:  # the first process speaks for all
        if not options.dry_run:
            merge(spec, options.out, QuietLog(), ranks=ranks)
        return 0
    if options.dry_run:
        planned = plan(spec)
        print(planned.text(full=True))
        print(estimate(planned, options.out or ".", ranks=ranks).text())
    else:
        merge(spec, options.out, best_log(), ranks=ranks)
    if options.diagnose:
        _diagnose(spec, None if options.dry_run else options.out, options.diagnose)
    return 0


def _diagnose(spec: MergeSpec, merged: Path | None, folder: Path) -> None:
    """Write the figures of a merge's inputs, and of its result, and print those by tower."""
    from rich.console import Console

    from mergers import diagnose
    from studio.log import best_log

    console = Console()
    for table in diagnose(spec, merged, folder, log=best_log()).tables():
        console.print(table)
    console.print(f"diagnosis: {folder / 'diagnosis.html'}", highlight=False, markup=False, soft_wrap=True)


def _weighted(text: str) -> str:
    """Return MODEL:WEIGHT with the model's folder found."""
    name, colon, weight = text.rpartition(":")
    try:
        float(weight)
    except ValueError:
        return str(modes.folder(text))
    return f"{modes.folder(name)}:{weight}" if colon else str(modes.folder(text))

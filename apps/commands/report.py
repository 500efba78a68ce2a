"""Report on what a folder holds: a training run, or an evaluation of several variants."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.log import Log
    from studio.types import Sample

EXAMPLE = (
    "triptych report runs/handwriting\n"
    "triptych report runs/handwriting --answers 12   (let the trained model answer held-out rows anew)\n"
    "triptych report runs/eval --baseline base       (what merges kept, gained and lost; for a folder of "
    "`triptych eval --out`)\n"
    "triptych report runs/eval --experts textiles=loom,commands=voice --card"
)
_RUN, _EVALUATION = "run.json", "evaluation.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="the folder of a run, finished or not, or of an evaluation",
    )
    parser.add_argument(
        "--kind", choices=("run", "evaluation"), help="which of the two, if the folder holds both"
    )
    run = parser.add_argument_group("for a run")
    run.add_argument(
        "--answers", type=int, default=0, metavar="N", help="held-out rows to answer; 0: those there are"
    )
    evaluation = parser.add_argument_group("for an evaluation")
    evaluation.add_argument(
        "--baseline",
        metavar="NAME",
        default="",
        help="what gains and losses are counted against (the evaluation's own, else the base)",
    )
    evaluation.add_argument(
        "--experts",
        action="append",
        default=[],
        metavar="E",
        help="DOMAIN=VARIANT for the expert at home in a domain, or VARIANT for a single expert, the best of "
        "which is at home (those that are adapters); several with commas or again",
    )
    evaluation.add_argument("--metric", metavar="M", default="", help="the headline (the evaluation's first)")
    evaluation.add_argument(
        "--examples", type=int, default=0, metavar="N", help="questions of each domain to show (%(default)s)"
    )
    evaluation.add_argument(
        "--card", action="store_true", help="write the figures and a summary into the cards of the merges"
    )


def run(options: argparse.Namespace) -> int:
    """Write the report into the folder, and print what it says in a sentence or two."""
    from studio.errors import ConfigError

    for name in ("answers", "examples"):
        if getattr(options, name) < 0:
            raise ConfigError(f"--{name} must be at least 0, not {getattr(options, name)}")
    return _report_run(options) if _kind(options) == "run" else _report_evaluation(options)


def _kind(options: argparse.Namespace) -> str:
    """Return what the folder holds, or raise one sentence that says what it would have to."""
    from studio.errors import CheckpointError, ConfigError

    folder: Path = options.folder
    held = {"run": folder / _RUN, "evaluation": folder / _EVALUATION}
    found = [kind for kind, file in held.items() if file.is_file()]
    if options.kind in found:
        return str(options.kind)
    if not found or options.kind:
        below = sorted(file.parent for name in (_RUN, _EVALUATION) for file in folder.glob(f"*/{name}"))
        near = f"; there is {', '.join(map(str, below[:4]))}" if below else ""
        wanted = f"no {options.kind}" if options.kind else "no run and no evaluation"
        raise CheckpointError(f"{folder} holds {wanted} ({_RUN}, {_EVALUATION}){near}")
    if len(found) > 1:
        raise ConfigError(f"{folder} holds a run and an evaluation; say which one with --kind")
    return found[0]


def _report_evaluation(options: argparse.Namespace) -> int:
    """Write report.html and report.json of an evaluation, and cards if they are asked for."""
    from apps.report import merges_of, report, write_cards
    from studio.errors import ConfigError
    from studio.eval_report.words import summary

    if options.answers:
        raise ConfigError(f"--answers is for runs, and {options.folder} holds an evaluation")
    page, made = report(
        options.folder,
        baseline=options.baseline,
        experts=options.experts,
        metric=options.metric,
        examples=options.examples,
    )
    merges = merges_of(made)
    if options.card and not merges:
        raise ConfigError("--card writes into the cards of merges, and none of the variants is known as one")
    if made.evaluation.partial:
        print("partial: the evaluation did not come to its end")
    for home in made.homes.values():
        print(f"at home in {home.domain}: {home.variant} ({home.how})")
    for name in made.of_kind("merge", "unknown"):
        for sentence in summary(made, name):
            print(f"{name}: {sentence}")
    if options.card:
        for card in write_cards(merges, made):
            print(f"card: {card}")
    print(page)
    return 0


def _report_run(options: argparse.Namespace) -> int:
    """Write report.html, report.json and curves.png into the run's folder, and print the verdict."""
    from studio.assets import find_data
    from studio.data import load_data
    from studio.errors import CheckpointError, ConfigError, TriptychError
    from studio.log import best_log
    from studio.run_report import PAGE, WORDS, speed_line, speeds, write_run_report
    from studio.runs import read_run
    from studio.training.tracking import read_metrics

    _only_runs(options)
    folder: Path = options.folder
    record = read_run(folder)
    if record is None:
        raise CheckpointError(f"{folder} holds no run")
    held_out = record.config.get("eval_data")
    try:
        samples = load_data(find_data(str(held_out)), split="test") if held_out else []
    except TriptychError:
        if options.answers:
            raise
        samples = []  # the report shows what was answered without the media that are gone
    if options.answers:
        if not samples:
            raise ConfigError(f"{folder} was trained without held-out rows (eval_data): none to answer")
        _answer(folder, str(record.config["model"]), samples, options.answers, best_log())
    verdict = write_run_report(folder, samples)
    print(f"{WORDS[verdict.kind]} {verdict.sentence}")
    print(speed_line(speeds(read_metrics(folder))))
    print(folder / PAGE)
    return 0


def _only_runs(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that a run has no use for."""
    from studio.errors import ConfigError

    given = [name for name in ("baseline", "experts", "metric", "examples", "card") if getattr(options, name)]
    if given:
        raise ConfigError(f"--{given[0]} is for evaluations, and {options.folder} holds a run")


def _answer(folder: Path, base: str, samples: Sequence[Sample], count: int, log: Log) -> None:
    """Load what the run made and let it answer."""
    from studio import families
    from studio.adapters import load_adapter
    from studio.assets import find_model
    from studio.errors import CheckpointError
    from studio.training.answering import write_answers
    from studio.training.threads import set_threads

    set_threads()
    whole = folder / "model"
    if not whole.is_dir() and not (folder / "adapter").is_dir():
        raise CheckpointError(f"{folder} holds neither an adapter nor a model yet")
    model = whole if whole.is_dir() else find_model(base)
    family = families.detect(model)
    loaded = family.load(model)
    if not whole.is_dir():
        loaded = loaded._replace(model=load_adapter(loaded.model, folder / "adapter"))
    write_answers(loaded, family, samples, count, folder, log)

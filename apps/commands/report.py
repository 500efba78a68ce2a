"""Report on a training run: curves, speed, what learned, answers, and whether it over- or underfits."""

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
    "triptych report runs/handwriting --answers 12   (let the trained model answer held-out rows anew)"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument(
        "--answers", type=int, default=0, metavar="N", help="held-out rows to answer; 0: those there are"
    )


def run(options: argparse.Namespace) -> int:
    """Write report.html, report.json and curves.png into the run's folder, and print the verdict."""
    from studio.assets import find_data
    from studio.data import load_data
    from studio.errors import CheckpointError, ConfigError, TriptychError
    from studio.log import best_log
    from studio.run_report import PAGE, WORDS, speed_line, speeds, write_run_report
    from studio.runs import read_run
    from studio.training.tracking import read_metrics

    if options.answers < 0:
        raise ConfigError(f"--answers must be at least 0, not {options.answers}")
    record = read_run(options.run)
    if record is None:
        raise CheckpointError(f"{options.run} holds no run")
    held_out = record.config.get("eval_data")
    try:
        samples = load_data(find_data(str(held_out)), split="test") if held_out else []
    except TriptychError:
        if options.answers:
            raise
        samples = []  # the report shows what was answered without the media that are gone
    if options.answers:
        if not samples:
            raise ConfigError(f"{options.run} was trained without held-out rows (eval_data): none to answer")
        _answer(options.run, str(record.config["model"]), samples, options.answers, best_log())
    verdict = write_run_report(options.run, samples)
    print(f"{WORDS[verdict.kind]} {verdict.sentence}")
    print(speed_line(speeds(read_metrics(options.run))))
    print(options.run / PAGE)
    return 0


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

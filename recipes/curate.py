"""Curate a set by a list of named steps: every change is told with its reason, and can be undone.

    triptych run curate data=helpdesk output=sets/helpdesk steps=normalise,text_duplicates,leakage
    triptych run curate --config curate.yaml
    triptych run curate undo=sets/helpdesk output=sets/helpdesk-as-it-was

A file of settings lists steps by name or with settings; `triptych ls steps` shows what there is:

    data: sets/raw
    output: sets/clean
    steps:
      - normalise
      - language: {keep: [en, de]}
      - image_duplicates
      - balance: {group: accent, mitigate: weight}

The input stays as it is. The folder `output` gets the rows that stay, their media, a card, curate.json, and
`undo/` with removed.jsonl and changes.jsonl, from which the input comes back byte for byte (Parquet as lines
of JSON). A killed run goes on after the last finished step.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from studio.assets import find_data
from studio.cache import Kept
from studio.config import to_dict
from studio.data import samples as read_samples
from studio.data.card import make_card, write_card
from studio.data.findings.source import data_files
from studio.data.provenance import read_about, steps_applied
from studio.data.steps._chain import all_done, applied, next_state, recall, remember, state_of
from studio.data.steps._ledger import UNDO, lines_name, restore, write_set
from studio.data.steps._step import Bench, Outcome, read_steps
from studio.errors import ConfigError, DataError
from studio.files import atomic_folder
from studio.log import Log
from studio.runs import find_same, new_record, write_run
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which set, by which steps, to where."""

    data: str = field(
        default="handwriting", metadata={"help": "a .jsonl, a folder of splits, a shipped name"}
    )
    steps: tuple[Any, ...] = field(
        default=(
            "normalise", "exact_duplicates", "text_duplicates",
            "image_duplicates", "sound_duplicates", "leakage",
        ),
        metadata={"help": "names of steps, or {name: {setting: value}}, in order"},
    )  # fmt: skip
    output: Path = field(default=Path("runs/curated"), metadata={"help": "folder for the new set"})
    undo: Path | None = field(default=None, metadata={"help": "a curated set: write its input to output"})
    media: Literal["link", "copy"] = field(
        default="link", metadata={"help": "hard links where the disk has them, or copies"}
    )
    seed: int = field(default=0, metadata={"help": "seed of draws, hashes and bootstrap"})
    resume: bool | None = field(
        default=None, metadata={"help": "none: go on if possible; false: do all steps again"}
    )


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"output": "runs/curate-smoke", "steps": ("normalise", "exact_duplicates", "text_duplicates")},
}

#: Settings that do not change what comes out.
APART = ("output", "media", "resume", "undo")


def run(config: Config, log: Log) -> Run:
    """Run the steps in order and write the new set whole or not at all, or give back the input of one."""
    if config.undo is not None:
        return _undo(config, config.undo, log)
    steps = read_steps(config.steps)
    began = time.monotonic()

    # Data: all splits of the folder, train last, so that what two splits share is taken from train.
    source = find_data(config.data)
    files = [file.resolve() for file in data_files(source)]
    _check_places(config.output, files)
    rows = [row for file in files for row in read_samples(file)]
    bench = Bench(log=log, kept=Kept(), seed=config.seed)
    state = state_of(files, rows, bench)
    inputs = {"data": state}
    for number, step in enumerate(steps, 1):
        inputs |= {f"steps[{number}].{name}": value for name, value in step.inputs(step.settings).items()}
    record = new_record("curate", to_dict(config), inputs, apart=APART)
    old = find_same(config.output, record, config.resume, apart=APART)
    if old is not None and old.state == "finished":
        log.say(f"{config.output} is finished with these settings and inputs; resume=false makes it again")
        return Run(folder=config.output, metrics=old.metrics)
    if config.output.exists() and old is None and config.resume is None and any(config.output.iterdir()):
        raise ConfigError(f"output '{config.output}' exists and is no curated set; give a new folder")

    # Steps: each sees what the ones before left. What it found is kept, should the run be killed.
    left, outcomes, told = rows, [], []
    log.say(f"{'step':20}{'removed':>9}{'changed':>9}{'left':>9}")
    for step in steps:
        state = next_state(state, step, config.seed)
        outcome = recall(state, files, bench) if config.resume is not False else None
        known = outcome is not None
        if outcome is None:
            outcome = step.run(left, step.settings, bench) if left else Outcome()
            remember(state, outcome, bench)
        left = applied(left, outcome)
        outcomes.append(outcome)
        changed = sum(edit.new is not None for edit in outcome.edits)
        removed = len(outcome.edits) - changed
        log.say(f"{step.name:20}{removed:9}{changed:9}{len(left):9}{'  known from before' if known else ''}")
        told.append(step.as_json() | {"removed": removed, "changed": changed, "report": dict(outcome.report)})
    if not left:
        raise DataError(f"no row of '{source}' would be left; nothing was written")

    # Write: the rows, the ledger, and the proof that the input comes back from both.
    done = all_done(steps, outcomes)
    figures = {
        "rows": float(len(rows)),
        "kept": float(len(left)),
        "removed": float(len(rows) - len(left)),
        "changed": float(sum(one.new is not None for one in done.values())),
    }
    with atomic_folder(config.output) as folder:
        layouts = write_set(folder, files, done, config.media, log)
        counts = {
            name: {key: told[key] for key in ("rows", "kept", "input", "output")}
            for name, told in layouts.items()
        }
        report = {name: int(value) for name, value in figures.items()} | {"files": counts, "steps": told}
        (folder / "curate.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        timings = {"all": time.monotonic() - began}
        write_run(folder, replace(record, state="finished", metrics=figures, timings=timings))
        # What was said of the input as a whole holds for what is left of it.
        about = read_about(files[0].parent, rows)
        about = about if about.name else replace(about, name=config.output.name)
        new = [folder / lines_name(file) for file in files if (folder / lines_name(file)).is_file()]
        write_card(
            make_card(new, [list(read_samples(file)) for file in new], about, steps_applied(folder)), folder
        )
    log.say(f"{len(left)} of {len(rows)} rows -> {config.output}; why: {config.output / UNDO}, curate.json")
    return Run(folder=config.output, metrics=figures)


def _undo(config: Config, curated: Path, log: Log) -> Run:
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ConfigError(f"output '{config.output}' exists; give a new folder to undo '{curated}' into")
    count = restore(curated, config.output, config.media, log)
    log.say(f"{count} rows as they were -> {config.output}")
    return Run(folder=config.output, metrics={"rows": float(count)})


def _check_places(output: Path, files: list[Path]) -> None:
    """Refuse an output that would take the place of the input."""
    target = output.resolve()
    for file in files:
        if target in file.parents or target == file:
            raise ConfigError(
                f"output '{output}' would take the place of the input '{file}'; give another folder"
            )
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output '{output}' is a file; give a folder")

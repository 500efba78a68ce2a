"""What a run is for: its adapter or model with the note of where it is from, and its card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.adapter_files import write_note
from studio.adapters import save_adapter
from studio.families._save import save_pretrained
from studio.files import atomic_folder
from studio.log import Log
from studio.run_report import PAGE, speed_line, speeds, write_run_report
from studio.runs import Record, write_card, write_run
from studio.training.answering import answer_at_the_end
from studio.training.processes import Processes
from studio.training.tracking import read_metrics
from studio.types import Family, Loaded, Sample


def keep(
    model: Any,
    loaded: Loaded,
    family: Family,
    output: Path,
    record: Record,
    step: int,
    processes: Processes,
) -> None:
    """Write ``output``/adapter of a model with an adapter, else ``output``/model with its processor.

    All processes call this, for their parts of the model; the main one writes.
    """
    about: dict[str, Any] = {
        "base": record.config["model"],
        "base_fingerprint": record.inputs["model"],
        "family": family.name,
    }
    note = {"run": record.fingerprint, "step": step, "data": record.data["data"]}
    with processes.whole(model, learning=has_adapter(model)):
        if not processes.main:
            return
        if has_adapter(model):
            save_adapter(model, output / "adapter", note=note, **about)
            return
        with atomic_folder(output / "model") as folder:
            save_pretrained(Loaded(model, loaded.processor), folder)
            write_note(folder, note=note, **about)


def conclude(
    loaded: Loaded,
    family: Family,
    output: Path,
    record: Record,
    held_out: Sequence[Sample],
    processes: Processes,
    log: Log,
    *,
    answers: int,
    last_is_kept: bool,
    use: str = "",
) -> None:
    """Write what a finished run leaves for people: answers to held-out rows, the card, the report.

    ``last_is_kept`` says whether the model has the weights that are kept; ``use`` is the command of the card.
    """
    if held_out and answers and processes.world == 1:
        answer_at_the_end(loaded, family, held_out, answers, output, log, last_is_kept=last_is_kept)
    if not processes.main:
        return
    card(loaded.model, family, output, record, use=use)
    shutil.rmtree(output / "encoded", ignore_errors=True)
    write_run(output, record)
    verdict = write_run_report(output, held_out)
    log.say(f"{verdict.sentence} See {output / PAGE}; trained {speed_line(speeds(read_metrics(output)))}")


def card(model: Any, family: Family, output: Path, record: Record, *, use: str = "") -> None:
    """Write the run's card, with a command that uses what was learned: by default one that measures it."""
    config, adapter = record.config, has_adapter(model)
    variant = f"{config['model']}+{output}/adapter" if adapter else f"{output}/model"
    write_card(
        output,
        f"{output.name}: {family.name} fine-tuned",
        record,
        summary=f"{'An adapter for' if adapter else 'A full fine-tune of'} `{config['model']}` (family "
        f"{family.name}), trained by the recipe `{record.recipe}` on `{config['data']}`.",
        use=use or f"triptych eval {variant} --data {config['eval_data'] or config['data']}",
        tags=("triptych", family.name, str(config["method"])),
    )


def has_adapter(model: Any) -> bool:
    """Say whether an adapter was put on the model."""
    return bool(getattr(model, "peft_config", None))

"""What a trained model answers to some held-out rows: for the report of its run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from studio.adapters import load_adapter
from studio.errors import CheckpointError
from studio.files import atomic_write
from studio.generate import answers
from studio.log import Log
from studio.run_report import ANSWERS
from studio.types import Family, Loaded, Sample


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return ``count`` samples from all over the data, or all of them if they are fewer."""
    count = min(count, len(samples))
    return [samples[at * len(samples) // count] for at in range(count)]


def answer_at_the_end(
    loaded: Loaded,
    family: Family,
    samples: Sequence[Sample],
    count: int,
    folder: Path,
    log: Log,
    *,
    last_is_kept: bool,
) -> None:
    """Let the model of a run that ends answer, with the weights that the run has kept.

    Those of an earlier evaluation are read back, if they are an adapter's; a whole model's are not, and then
    `triptych report RUN --answers N` makes the answers.
    """
    if not last_is_kept:
        if not (folder / "adapter").is_dir():
            return
        try:
            load_adapter(loaded.model, folder / "adapter")
        except CheckpointError as error:
            log.say(f"no answers for the report: {error}")
            return
    write_answers(loaded, family, samples, count, folder, log)


def write_answers(
    loaded: Loaded, family: Family, samples: Sequence[Sample], count: int, folder: Path, log: Log
) -> None:
    """Let a model answer ``count`` of the samples, and write what it said into a run's folder."""
    chosen = spread(samples, count)
    log.stage("answering", len(chosen))
    loaded.model.eval()
    given = answers(loaded, family, chosen, max_new_tokens=64, batch_size=4, log=log)
    rows = [
        {"where": sample.where, "reference": sample.answer, "answer": answer}
        for sample, answer in zip(chosen, given, strict=True)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(folder / ANSWERS, lines)

"""Trackers beside metrics.jsonl: TensorBoard is told what the file says, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes import sft
from studio.config import from_dict
from studio.log import QuietLog
from studio.training.tracking import read_metrics


def test_tensorboard_is_told_what_stands_in_the_file(settings: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = from_dict(sft.Config, {**settings, "eval_data": settings["data"], "tracker": "tensorboard"})
    folder = sft.run(config, QuietLog()).folder
    events = [file for file in folder.rglob("events.out.tfevents.*")]
    told: dict[str, dict[int, float]] = {}
    for file in events:
        found = EventAccumulator(str(file)).Reload()
        for tag in found.Tags()["scalars"]:
            told.setdefault(tag, {}).update({event.step: event.value for event in found.Scalars(tag)})
    rows = read_metrics(folder)
    for key in ("loss", "lr", "grad_norm", "eval_loss", "tokens_per_s"):
        expected = {row["step"]: row[key] for row in rows if key in row}
        assert told[key] == pytest.approx(expected, rel=1e-5), key
    hyperparameters = next(Path(folder).rglob("hparams.yml")).read_text()
    assert "adapter.r: 4" in hyperparameters

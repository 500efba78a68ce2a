"""What the recipe sft does about its data before the first step: findings and long rows."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes import sft
from studio.config import from_dict, load
from studio.data import load_data, write_jsonl
from studio.errors import ConfigError, DataError, MediaError
from studio.log import QuietLog
from studio.runs import read_run
from studio.types import Run

Data = Callable[..., Path]


class Saying(QuietLog):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def run(settings: dict[str, Any], log: Any = None, **more: Any) -> Run:
    return sft.run(from_dict(sft.Config, {**settings, **more}), log or QuietLog())


def test_a_truncated_sound_is_named_before_the_first_step(settings: dict[str, Any], data: Data) -> None:
    folder = data()
    first = next(s for s in load_data(folder, split="train") if s.sounds)
    first.sounds[0].path.write_bytes(first.sounds[0].path.read_bytes()[:200])
    with pytest.raises(MediaError, match=rf"train\.jsonl:{first.line}: .*{first.sounds[0].path.name}"):
        run(settings, data=str(folder))
    assert not (Path(settings["output"]) / "run.json").exists()


def test_findings_stop_a_run_before_its_first_step_and_warnings_are_counted(
    settings: dict[str, Any], data: Data
) -> None:
    folder = data()
    rows = load_data(folder, split="train")
    log = Saying()
    write_jsonl(folder / "train.jsonl", [*rows, rows[0]])
    run(settings, log, data=str(folder), max_steps=1)
    assert "data: 1 duplicate_row; `triptych check` tells where" in log.said
    shutil.copy(folder / "train.jsonl", folder / "test.jsonl")
    with pytest.raises(DataError, match=r"14 of .*\n.*test\.jsonl:1: the same row stands in train\.jsonl:1"):
        run(settings, data=str(folder), eval_data=str(folder), output=settings["output"] + "-2")
    assert not Path(settings["output"] + "-2").exists()


def test_long_rows_are_dealt_with_as_length_says(settings: dict[str, Any], data: Data) -> None:
    folder = data()
    rows = load_data(folder, split="train")
    long = dataclasses.replace(rows[0], turns=(*rows[1].turns * 40, *rows[0].turns))
    write_jsonl(folder / "train.jsonl", [*rows, long])
    settings |= {"data": str(folder), "max_steps": 2}
    with pytest.raises(
        DataError, match=r"train\.jsonl:14: \d+ tokens, allowed are 512; length\.policy may be"
    ):
        run(settings, length={"max_tokens": 512})
    log = Saying()
    run(settings, log, length={"max_tokens": 512, "policy": "drop"})
    assert "length: 1 rows dropped" in log.said
    record = read_run(Path(settings["output"]))
    assert record is not None
    assert record.config["length"] == {"max_tokens": 512, "policy": "drop"}
    with pytest.raises(ConfigError, match="did you mean 'chunk'"):
        run(settings, length={"audio": "chunks"})
    assert load(sft.Config, overrides=["length.max_tokens=512"]).length == {"max_tokens": 512}

"""What the tests of the recipe dpo share: preferences with their media, and runs that are compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes import dpo
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.log import QuietLog
from studio.training.tracking import read_metrics
from studio.types import Image, Run, Sound, Text, Turn


def said(text: str) -> tuple[Turn, ...]:
    return (Turn(role="assistant", parts=(Text(text=text),)),)


def write_preferences(plain_data: Path) -> Path:
    """Write preferences about pictures, sounds and both, "yes" before "no"; return their folder."""
    folder = plain_data / "preferred"
    (folder / "media").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = []
        for at, row in enumerate(load_data(plain_data, split)):
            turns = []
            for turn in row.prompt:
                parts = []
                for part in turn.parts:
                    if isinstance(part, Image | Sound):
                        path = folder / "media" / part.path.name
                        path.write_bytes(part.path.read_bytes())
                        part = dataclasses.replace(part, path=path)
                    parts.append(part)
                turns.append(dataclasses.replace(turn, parts=tuple(parts)))
            long = " indeed" * (at % 3)
            rows.append(
                dataclasses.replace(
                    row, turns=tuple(turns), chosen=said(f"yes{long}"), rejected=said(f"no {row.answer}")
                )
            )
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def settings_of(base: Path, data: Path, output: Path) -> dict[str, Any]:
    """Return the settings of a short run."""
    return {
        "model": str(base), "data": str(data), "eval_data": str(data), "output": str(output),
        "max_steps": 4, "batch_size": 4, "accumulate": 1, "lr": 5e-3,
        "adapter": {"r": 4}, "optimiser": {"warmup": 1},
    }  # fmt: skip


def run(settings: dict[str, Any], log: QuietLog | None = None, **more: Any) -> Run:
    return dpo.run(from_dict(dpo.Config, {**settings, **more}), log or QuietLog())


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same(one: Path, other: Path, within: float) -> None:
    for key in ("loss", "margin", "kl", "eval_loss"):
        assert losses(one, key) == pytest.approx(losses(other, key), abs=within)
    a, b = adapter(one), adapter(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=within)


class Saying(QuietLog):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def found(self, begin: str) -> str:
        (line,) = [line for line in self.said if line.startswith(begin)]
        return line

"""What the tests of fine-tuning share: rows with their media in a folder, and settings of a short run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes import sft
from studio.config import from_dict
from studio.data import write_jsonl
from studio.families import _omni_build
from studio.log import QuietLog
from studio.types import Image, Sample, Sound

Data = Callable[..., Path]
Train = Callable[..., Path]


class Stopping(QuietLog):
    """Interrupts a run, as Ctrl-C does, after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, n: int = 1, **figures: float) -> None:
        if "samples_per_s" in figures:
            self.left -= n
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="session")
def data(
    shared_folder: Path,
    questions: Callable[[str, int], list[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Data:
    """Return a factory: a family -> a folder with train.jsonl, test.jsonl and their media."""

    def make(name: str = "qwen_omni", train: int = 13, test: int = 5) -> Path:
        folder = tmp_path_factory.mktemp("data")
        samples = questions(name, train + test)
        shutil.copytree(shared_folder / "media", folder / "media")

        def inside(sample: Sample) -> Sample:
            def moved(part: Any) -> Any:
                if isinstance(part, Image | Sound):
                    return dataclasses.replace(part, path=folder / "media" / part.path.name)
                return part

            turns = [dataclasses.replace(t, parts=tuple(map(moved, t.parts))) for t in sample.turns]
            return dataclasses.replace(sample, turns=tuple(turns))

        made = [inside(sample) for sample in samples]
        made[0] = dataclasses.replace(made[0], weight=0.5)
        write_jsonl(folder / "train.jsonl", made[:train])
        write_jsonl(folder / "test.jsonl", made[train:])
        return folder

    return make


@pytest.fixture(scope="session")
def plain_data(data: Data) -> Path:
    return data()


@pytest.fixture
def settings(tiny: Callable[[str], Path], plain_data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny("qwen_omni")), "data": str(plain_data), "output": str(tmp_path / "run"),
        "max_steps": 4, "batch_size": 4, "lr": 5e-3, "adapter": {"r": 4}, "optimiser": {"warmup": 1},
    }  # fmt: skip


@pytest.fixture(scope="session")
def train() -> Train:
    """Return what trains by settings, and by changes of them, and returns the run's folder."""

    def trained(settings: dict[str, Any], log: QuietLog | None = None, **more: Any) -> Path:
        return sft.run(from_dict(sft.Config, {**settings, **more}), log or QuietLog()).folder

    return trained


@pytest.fixture(scope="session")
def train_in_two_goes(train: Train) -> Train:
    """Return what trains for some steps, is interrupted, and goes on to the end."""

    def trained(settings: dict[str, Any], after: int, **more: Any) -> Path:
        with pytest.raises(KeyboardInterrupt):
            train(settings, Stopping(after), **more)
        return train(settings, **more)

    return trained


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random thinker of which one row needs megabytes."""
    size = _omni_build.Size(
        vocabulary=320, hidden=256, layers=8, heads=4, kv_heads=2, inner=2048, vision=32, vision_layers=2,
        vision_inner=48, audio=32, audio_layers=2, audio_inner=48, tower_heads=2, side=32, mels=32,
    )  # fmt: skip
    return _omni_build.build(tmp_path_factory.mktemp("wide"), size, _omni_build.TINY_TEXTS, seed=0)


@pytest.fixture
def long_rows(settings: dict[str, Any], wide: Path) -> dict[str, Any]:
    """Return settings of a short run of the wide model, without shortcuts, on rows of about 100 tokens."""
    source, file = Path(settings["data"]) / "train.jsonl", Path(settings["data"]) / "long.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows:
        turn = row["messages"][0]
        parts = turn["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        turn["content"] = [*parts, {"type": "text", "text": " one two three" * 25}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"max_steps": 3, "batch_size": 12, "adapter.r": 4, "model": wide}
    plain = {f"speed.{name}": "false" for name in ("prefetch", "tower_cache", "packing")}
    return {"data": file, "lr": settings["lr"], **common, **plain}

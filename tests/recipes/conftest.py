"""What the tests of fine-tuning share: rows with their media in a folder, and settings of a short run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.data import write_jsonl
from studio.types import Image, Sample, Sound

Data = Callable[..., Path]


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

"""Random checkpoints of the architectures that other tools lose tensors of, and perturbed copies of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio.checkpoint import Checkpoint
from tests.mergers.architectures import FAMILIES, write


@pytest.fixture(scope="session")
def base_of(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a factory: an architecture's name -> a random checkpoint of it."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name in FAMILIES:
            return tiny(name)
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            made[name] = write(name, folder)
        return made[name]

    return build


@pytest.fixture(scope="session")
def experts_of(
    base_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[Path]]:
    """Return a factory: an architecture's name and a number -> that many perturbed copies of its base."""
    made: dict[tuple[str, int], Path] = {}

    def one(name: str, number: int) -> Path:
        if (name, number) not in made:
            base = Checkpoint(base_of(name))
            folder = tmp_path_factory.mktemp(f"{name}-expert")
            draw = torch.Generator().manual_seed(number)
            tensors = {}
            for key in base.names():
                value = base.read(key)
                noise = torch.randn(value.shape, generator=draw) * 0.01
                tensors[key] = (value.float() + noise).to(value.dtype) if value.is_floating_point() else value
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_bytes((base.folder / "config.json").read_bytes())
            made[name, number] = folder
        return made[name, number]

    return lambda name, count=2: [one(name, number) for number in range(1, count + 1)]

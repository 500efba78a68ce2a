"""What a dry run predicts: memory, disk and time, from headers and a trial on random values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergers import MergeSpec, estimate, merge, plan
from studio.adapters import Factors, write_adapter


def _adapter(folder: Path, seed: int, rank: int = 4) -> Path:
    draw = torch.Generator().manual_seed(seed)
    modules = {
        f"model.layers.{i}.mlp.up_proj": Factors(
            a=torch.randn(rank, 48, generator=draw), b=torch.randn(64, rank, generator=draw), shape=(64, 48)
        )
        for i in range(3)
    }
    return write_adapter(folder, modules, base="")


@pytest.mark.parametrize("method", ["linear", "ties", "iso_c"])
def test_a_model_merge_reads_and_writes_what_was_predicted(
    base_of: Callable[[str], Path],
    experts_of: Callable[..., list[Path]],
    tmp_path: Path,
    method: str,
) -> None:
    spec = MergeSpec.from_flags(method=method, models=map(str, experts_of("llava")), base=base_of("llava"))
    found = estimate(plan(spec), tmp_path / "not yet here" / "out")
    weights = (base_of("llava") / "model.safetensors").stat().st_size
    assert 0.9 * weights < found.writes < weights
    assert found.reads >= 3 * found.writes
    assert found.memory > 10 * found.writes  # mostly this process itself
    assert 0 < found.seconds < 600
    assert "GB/s per processor" in found.text()


@pytest.mark.parametrize(
    ("rank", "method"), [("lossless", "linear"), (2, "linear"), (2, "ties"), (0.9, "knots")]
)
def test_a_merged_adapter_is_never_larger_than_predicted(
    tmp_path: Path, rank: int | float, method: str
) -> None:
    models = [str(_adapter(tmp_path / str(seed), seed)) for seed in range(2)]
    spec = MergeSpec.from_flags(method=method, models=models, rank=rank)
    found = estimate(plan(spec))
    report = merge(spec, tmp_path / "out")
    written = sum(4 * module.rank * (64 + 48) for module in report.modules)
    assert written <= found.writes
    if isinstance(rank, int) or rank == "lossless":
        assert written == found.writes

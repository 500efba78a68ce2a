"""What a dry run predicts: memory, disk and time, from headers and a trial on random values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergers import MergeSpec, estimate, merge, plan
from mergers import _settings as settings
from mergers._budget import tensor_bytes
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.statistics import write_statistics

# Prints for each method by how much the process grows while it merges a matrix, and what was predicted.
WATCH = """
import json, threading
import torch
from mergers._budget import resident_bytes, tensor_bytes
from mergers._place import Place
from mergers._settings import method
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
for name in ("core_space", "iso_cts", "regmean", "wudi"):
    module, most, over = method(name), [0], threading.Event()
    def merge(rows, columns):
        tensors = [torch.randn(rows, columns, generator=draw) for _ in range(2)]
        told = {"place": Place(statistics=[torch.eye(columns) for _ in tensors])} if name == "regmean" else {}
        return module.merge(tensors, None, **told)
    merge(8, 8)
    before = resident_bytes()
    def watch():
        while not over.wait(0.0005):
            most[0] = max(most[0], resident_bytes() - before)
    thread = threading.Thread(target=watch)
    thread.start()
    merge(256, 1536)
    over.set()
    thread.join()
    print(json.dumps([name, most[0], tensor_bytes(module, (256, 1536), 2)]))
"""


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


def test_a_matrix_takes_no_more_memory_than_was_predicted() -> None:
    # Larger blocks of memory go back to the system at once, so that what is resident is what is held.
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WATCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **own})
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [method for method, _, _ in told] == ["core_space", "iso_cts", "regmean", "wudi"]
    for method, taken, predicted in told:
        assert predicted / 3 < taken < predicted, method


def test_what_statistics_take_bounds_the_merge_and_is_read(
    base_of: Callable[[str], Path], experts_of: Callable[..., list[Path]], tmp_path: Path
) -> None:
    experts, base = experts_of("llava"), base_of("llava")
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    models: list[dict[str, str]] = []
    for expert in experts:
        file = tmp_path / f"{len(models)}.safetensors"
        weights = Checkpoint(expert).fingerprint()
        columns = Checkpoint(base).shape(name)[1]
        write_statistics(file, {name: torch.eye(columns)}, kind="gram", weights=weights, samples=1)
        models.append({"path": str(expert), "statistics": str(file)})
    data = {"base": str(base), "models": models}
    told = plan(MergeSpec.from_mapping({**data, "method": "regmean"}))
    plain = plan(MergeSpec.from_mapping({**data, "method": "linear"}))
    files = sum((tmp_path / f"{i}.safetensors").stat().st_size for i in range(2))
    assert estimate(told).reads == estimate(plain).reads + files
    regmean = settings.method("regmean")
    assert tensor_bytes(regmean, (8, 4096), 2) > 2 * 4 * 4096**2  # the matrices themselves
    little = MergeSpec.from_mapping({**data, "method": "regmean", "max_ram": "1MB"})
    with pytest.raises(MergeError, match=r"under regmean, and of the 0\.00 GB that max_ram gives a process"):
        merge(little, tmp_path / "out")

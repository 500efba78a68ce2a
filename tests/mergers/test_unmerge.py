"""Taking an expert out again: by merging the rest, or where inputs are gone by subtracting it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import MergeSpec, merge, unmerge, verify
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError

WEIGHTS = (0.5, 0.3, -0.4)
NAMES = [f"model.layers.{i}.mlp.up_proj" for i in range(3)]


def _model(folder: Path, seed: int, ground: dict[str, Tensor] | None = None, dtype: Any = None) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(16, 12, generator=draw) for name in NAMES}
    if ground is not None:
        tensors = {name: ground[name] + 0.1 * value for name, value in tensors.items()}
    folder.mkdir(parents=True)
    save_file({k: v.to(dtype or torch.float32) for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plain"}))
    return folder


def _adapter(folder: Path, seed: int, base: Path, modules: list[str] = NAMES) -> Path:
    draw = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(
            a=torch.randn(2, 12, generator=draw), b=torch.randn(16, 2, generator=draw), shape=(16, 12)
        )
        for name in modules
    }
    return write_adapter(folder, factors, base=str(base), base_fingerprint=Checkpoint(base).fingerprint())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return _model(tmp_path / "base", 0)


@pytest.fixture
def adapters(tmp_path: Path, base: Path) -> list[Path]:
    own = [NAMES, NAMES[:2], NAMES[1:]]
    return [_adapter(tmp_path / f"expert-{i}", i, base, own[i]) for i in range(3)]


@pytest.fixture
def models(tmp_path: Path, base: Path) -> list[Path]:
    return [_model(tmp_path / f"model-{i}", i + 1, _read(base)) for i in range(3)]


def _read(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def _deltas(folder: Path) -> dict[str, Tensor]:
    adapter = read_adapter(folder)
    return {name: adapter.factors(name).delta() for name in adapter.names()}


def _sum(parts: list[Path], weights: list[float]) -> dict[str, Tensor]:
    found = {name: torch.zeros(16, 12) for name in NAMES}
    for part, weight in zip(parts, weights, strict=True):
        for name, delta in _deltas(part).items():
            found[name] += weight * delta
    return found


def _merge(method: str, models: list[Path], out: Path, **more: Any) -> None:
    entries = [{"path": str(m), "weight": w} for m, w in zip(models, WEIGHTS, strict=True)]
    merge(MergeSpec.from_mapping({"method": method, "models": entries, **more}), out)


def _near(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "cat"])
@pytest.mark.parametrize("gone", [False, True], ids=["inputs there", "inputs gone"])
def test_the_others_keep_their_part_of_a_sum_of_adapters(
    adapters: list[Path], tmp_path: Path, method: str, gone: bool
) -> None:
    _merge(method, adapters, tmp_path / "merged")
    total = sum(WEIGHTS) if method == "linear" else 1.0
    truth = _sum(adapters[::2], [w / total for w in WEIGHTS[::2]])
    if gone:
        shutil.rmtree(adapters[0])
    report = unmerge(adapters[1], tmp_path / "merged", tmp_path / "out")
    assert report.details["how"] == ("subtracted" if gone else "merged again")
    _near(_deltas(tmp_path / "out"), truth)
    assert verify(tmp_path / "out") == []


def test_an_expert_that_is_gone_itself_is_named_by_the_end_of_its_path(
    adapters: list[Path], tmp_path: Path
) -> None:
    _merge("linear", adapters, tmp_path / "merged")
    shutil.rmtree(adapters[1])
    assert unmerge("expert-1", tmp_path / "merged", tmp_path / "out").details["how"] == "merged again"


def test_other_methods_merge_the_rest_again_and_cannot_subtract(adapters: list[Path], tmp_path: Path) -> None:
    settings = {"density": [0.5, 0.6, 0.7]}
    _merge("ties", adapters, tmp_path / "merged", settings=settings, rank=3)
    entries = [{"path": str(adapters[i]), "weight": WEIGHTS[i]} for i in (0, 2)]
    rest = {"method": "ties", "models": entries, "settings": {"density": [0.5, 0.7]}, "rank": 3}
    report = merge(MergeSpec.from_mapping(rest), tmp_path / "truth")
    assert unmerge(adapters[1], tmp_path / "merged", tmp_path / "out").fingerprint == report.fingerprint
    shutil.rmtree(adapters[2])
    with pytest.raises(MergeError, match=r"expert-2 is gone or has changed, and ties does not add up"):
        unmerge(adapters[1], tmp_path / "merged", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("gone", [False, True], ids=["inputs there", "inputs gone"])
def test_the_others_keep_their_part_of_a_sum_of_models(
    base: Path, models: list[Path], tmp_path: Path, gone: bool
) -> None:
    _merge("task_arithmetic", models, tmp_path / "merged", base=str(base), settings={"scale": 0.5})
    ground, first, last = _read(base), _read(models[0]), _read(models[2])
    truth = {n: g + 0.25 * (first[n] - g) - 0.2 * (last[n] - g) for n, g in ground.items()}
    if gone:
        shutil.rmtree(models[0])
    report = unmerge(models[1], tmp_path / "merged", tmp_path / "out")
    assert report.details["how"] == ("subtracted" if gone else "merged again")
    _near(_read(tmp_path / "out"), truth)


@pytest.mark.parametrize("gone", [False, True], ids=["inputs there", "inputs gone"])
def test_an_average_of_models_becomes_the_average_of_the_rest(
    models: list[Path], tmp_path: Path, gone: bool
) -> None:
    _merge("linear", models, tmp_path / "merged")
    first, last = _read(models[0]), _read(models[2])
    truth = {n: (0.5 * first[n] - 0.4 * last[n]) / 0.1 for n in first}
    if gone:
        shutil.rmtree(models[2])
    unmerge(models[1], tmp_path / "merged", tmp_path / "out")
    _near(_read(tmp_path / "out"), truth)


def test_an_adapter_is_taken_out_of_a_full_model_without_the_base(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    _merge("cat", adapters, tmp_path / "merged", base=str(base), output="model")
    rest = _sum(adapters[::2], list(WEIGHTS[::2]))
    truth = {f"{n}.weight": _read(base)[f"{n}.weight"] + delta for n, delta in rest.items()}
    shutil.rmtree(base)
    assert unmerge(adapters[1], tmp_path / "merged", tmp_path / "out").details["how"] == "subtracted"
    _near(_read(tmp_path / "out"), truth)


def test_a_full_model_cannot_be_taken_out_without_the_base(
    base: Path, models: list[Path], tmp_path: Path
) -> None:
    _merge("task_arithmetic", models, tmp_path / "merged", base=str(base))
    shutil.rmtree(base)
    with pytest.raises(
        MergeError, match=r"base is gone or has changed, and what .*model-1 changes is told by"
    ):
        unmerge(models[1], tmp_path / "merged", tmp_path / "out")


def test_what_cannot_be_taken_out_is_one_sentence_and_writes_nothing(
    adapters: list[Path], tmp_path: Path
) -> None:
    merged, out = tmp_path / "merged", tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"has no merge\.lock\.json"):
        unmerge(adapters[1], adapters[0], out)
    merge(MergeSpec.from_flags(method="cat", models=[str(adapters[0])]), tmp_path / "one")
    with pytest.raises(MergeError, match=r"is all that .*one was merged from"):
        unmerge(adapters[0], tmp_path / "one", out)
    _merge("cat", adapters, merged)
    with pytest.raises(MergeError, match=r"is none of the inputs of .*merged: .*expert-0, "):
        unmerge("expert-7", merged, out)
    shutil.rmtree(adapters[0])
    weights = merged / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(MergeError, match="merged is not what the merge wrote"):
        unmerge(adapters[1], merged, out)
    parts = [_model(tmp_path / name, seed) for seed, name in enumerate("ab")]
    entries = [{"model": str(part), "parameters": {"weight": 1}} for part in parts]
    spec = MergeSpec.from_mapping({"merge_method": "linear", "models": entries})
    merge(spec, tmp_path / "sliced")
    with pytest.raises(MergeError, match="was merged by a mergekit file; take the expert out of that"):
        unmerge(parts[0], tmp_path / "sliced", out)
    assert not out.exists()

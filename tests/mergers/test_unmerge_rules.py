"""Taking an expert out of a merge with rules: each tensor keeps the numbers that it was merged with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import MergeSpec, merge, unmerge
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

LAYERS = [f"model.layers.{i}.mlp.up_proj" for i in range(4)]
EYES = "visual.proj"
NAMES = [*LAYERS, EYES]
#: By tensor, what each of the three experts is multiplied by under RULES.
RULES: dict[str, Any] = {
    "settings": {"weight": [{"layers": [0, 0.6]}, 0.3, -0.4]},
    "rules": [
        {"match": "vision", "freeze": True},
        {"match": "llm.layers.1", "method": "linear", "weight": [1, 2, 1]},
    ],
    "weights_by_layer": {"llm.layers.3": [0.1, 0.2, 0.3]},
}
TRUTH = [[0.0, 0.3, -0.4], [0.25, 0.5, 0.25], [0.4, 0.3, -0.4], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]


def _model(folder: Path, seed: int, ground: dict[str, Tensor] | None = None) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(16, 12, generator=draw) for name in NAMES}
    if ground is not None:
        tensors = {name: ground[name] + 0.1 * value for name, value in tensors.items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plain"}))
    return folder


def _adapter(folder: Path, seed: int, base: Path, modules: list[str]) -> Path:
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
    own = [NAMES, [*LAYERS[:2], EYES], LAYERS[1:]]
    return [_adapter(tmp_path / f"expert-{i}", i, base, own[i]) for i in range(3)]


def _read(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def _deltas(folder: Path) -> dict[str, Tensor]:
    adapter = read_adapter(folder)
    return {name: adapter.factors(name).delta() for name in adapter.names()}


def _merge(models: list[Path], out: Path, **more: Any) -> Path:
    paths = [str(model) for model in models]
    merge(MergeSpec.from_mapping({"method": "task_arithmetic", "models": paths, **RULES, **more}), out)
    return out


def _truth(models: list[Path], gone: int) -> dict[str, Tensor]:
    found = {}
    for name, weights in zip(NAMES, TRUTH, strict=True):
        parts = [
            w * _deltas(m)[name]
            for i, (m, w) in enumerate(zip(models, weights, strict=True))
            if i != gone and name in _deltas(m)
        ]
        found[name] = sum(parts, torch.zeros(16, 12))
    return found


@pytest.mark.parametrize("gone", [None, 0, 2], ids=["inputs there", "first gone", "last gone"])
@pytest.mark.parametrize("expert", [1])
def test_adapters_keep_their_part_of_each_module(
    adapters: list[Path], tmp_path: Path, expert: int, gone: int | None
) -> None:
    merged, truth = _merge(adapters, tmp_path / "merged"), _truth(adapters, expert)
    if gone is not None:
        shutil.rmtree(adapters[gone])
    report = unmerge(adapters[expert], merged, tmp_path / "out")
    assert report.details["how"] == ("merged again" if gone is None else "subtracted")
    found = _deltas(tmp_path / "out")
    assert set(found) == set(LAYERS)  # what is frozen stays away
    recipe = json.loads((tmp_path / "out/merge.lock.json").read_text())["recipe"]
    assert {"match": "vision", "freeze": True} in recipe["rules"]
    for name in found:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-4, atol=1e-5)


def test_what_was_frozen_needs_no_rule_where_nothing_has_it(
    adapters: list[Path], base: Path, tmp_path: Path
) -> None:
    parts = [adapters[0], adapters[2]]
    rules = [{"match": "vision", "freeze": True}]
    merged = tmp_path / "merged"
    merge(MergeSpec.from_mapping({"method": "cat", "models": list(map(str, parts)), "rules": rules}), merged)
    shutil.rmtree(base)
    for gone in (False, True):
        if gone:
            shutil.rmtree(adapters[0])
        unmerge(adapters[2 if gone else 0], merged, tmp_path / "out")
        rest = _deltas(tmp_path / "out")
        assert set(rest) == set(LAYERS if gone else LAYERS[1:])


@pytest.mark.parametrize("gone", [False, True], ids=["inputs there", "inputs gone"])
def test_full_models_keep_their_part_of_each_tensor(base: Path, tmp_path: Path, gone: bool) -> None:
    ground = _read(base)
    models = [_model(tmp_path / f"model-{i}", i + 1, ground) for i in range(3)]
    values = [_read(model) for model in models]
    merged = _merge(models, tmp_path / "merged", base=str(base))
    if gone:
        shutil.rmtree(models[0])
    unmerge(models[1], merged, tmp_path / "out")
    found = _read(tmp_path / "out")
    for name, (first, _, last) in zip([f"{n}.weight" for n in NAMES], TRUTH, strict=True):
        deltas = [value[name] - ground[name] for value in values]
        truth = ground[name] + first * deltas[0] + last * deltas[2]
        torch.testing.assert_close(found[name], truth, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[f"{EYES}.weight"], ground[f"{EYES}.weight"])


@pytest.mark.parametrize("gone", [False, True], ids=["inputs there", "inputs gone"])
def test_an_average_by_rules_becomes_the_averages_of_the_rest(tmp_path: Path, gone: bool) -> None:
    models = [_model(tmp_path / f"model-{i}", i + 1) for i in range(3)]
    first, _, last = (_read(model) for model in models)
    spec = {"method": "linear", "models": list(map(str, models)), "settings": {"weight": [1, 1, 2]}}
    rules = [{"match": "re:up_proj", "weight": [3, 1, 1]}]
    merge(MergeSpec.from_mapping({**spec, "rules": rules}), tmp_path / "merged")
    if gone:
        shutil.rmtree(models[2])
    unmerge(models[1], tmp_path / "merged", tmp_path / "out")
    found = _read(tmp_path / "out")
    for name, (one, other) in {f"{LAYERS[0]}.weight": (3, 1), f"{EYES}.weight": (1, 2)}.items():
        truth = (one * first[name] + other * last[name]) / (one + other)
        torch.testing.assert_close(found[name], truth, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_taken_out_of_a_full_model_without_the_base(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    truth = {
        f"{name}.weight": delta + _read(base)[f"{name}.weight"] for name, delta in _truth(adapters, 1).items()
    }
    merged = _merge(adapters, tmp_path / "merged", base=str(base), output="model")
    shutil.rmtree(base)
    assert unmerge(adapters[1], merged, tmp_path / "out").details["how"] == "subtracted"
    for name, value in _read(tmp_path / "out").items():
        torch.testing.assert_close(value, truth[name], rtol=1e-4, atol=1e-5)


def test_a_method_that_does_not_add_up_runs_again_or_is_refused_by_its_rule(
    adapters: list[Path], tmp_path: Path
) -> None:
    rules = [{"match": ["llm.layers.0", "llm.layers.1"], "method": "ties", "density": 0.5}]
    more = {"rules": rules, "settings": {"weight": [0.5, 0.3, -0.4]}, "weights_by_layer": {}}
    merged = _merge(adapters, tmp_path / "merged", **more)
    unmerge(adapters[1], merged, tmp_path / "out")
    rest = {"models": [str(adapters[0]), str(adapters[2])], "settings": {"weight": [0.5, -0.4]}}
    merge(MergeSpec.from_mapping({"method": "task_arithmetic", **rest, "rules": rules}), tmp_path / "truth")
    found, truth = _deltas(tmp_path / "out"), _deltas(tmp_path / "truth")
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-4, atol=1e-5)
    recipe = json.loads((tmp_path / "out/merge.lock.json").read_text())["recipe"]
    assert [rule["match"] for rule in recipe["rules"]] == [["llm.layers.0", "llm.layers.1"]]
    shutil.rmtree(adapters[2])
    with pytest.raises(
        MergeError,
        match=r"expert-2 is gone or has changed, and ties of the rule for llm\.layers\.0 or llm\.layers\.1 "
        "does not add up",
    ):
        unmerge(adapters[1], merged, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_method_of_two_models_is_refused_by_its_rule(adapters: list[Path], tmp_path: Path) -> None:
    spec = {"method": "cat", "models": list(map(str, adapters[:2]))}
    merge(MergeSpec.from_mapping({**spec, "rules": [{"match": "vision", "method": "slerp"}]}), tmp_path / "m")
    with pytest.raises(
        MergeError, match=r"slerp of the rule for vision merges 2 models; without .*expert-1 there is 1"
    ):
        unmerge(adapters[1], tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rule_takes_nothing_from_settings_that_its_numbers_hold_already(
    adapters: list[Path], tmp_path: Path
) -> None:
    more = {"method": "ties", "settings": {"weight": [0.5, 0.3, -0.4], "scale": 0.7, "density": 0.5}}
    rules = [{"match": "vision", "method": "task_arithmetic"}]
    merged = _merge(adapters, tmp_path / "merged", rules=rules, weights_by_layer={}, **more)
    unmerge(adapters[1], merged, tmp_path / "out")
    truth = 0.7 * 0.5 * _deltas(adapters[0])[EYES]
    torch.testing.assert_close(_deltas(tmp_path / "out")[EYES], truth, rtol=1e-4, atol=1e-5)

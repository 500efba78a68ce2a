"""Adapters: what we read as true deltas is what PEFT adds to the weights, for every kind of LoRA."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from studio.adapter_files import paths_pattern
from studio.adapters import (
    add_lora,
    load_adapter,
    lora_modules,
    read_adapter,
    save_adapter,
    write_adapter,
)
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError
from studio.families import family
from studio.module_names import weight_names

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # PEFT asks transformers by an old name
    "ignore:.*fan_in_fan_out:UserWarning",
    "ignore:.*Saving adapter for a model that has no base model config:UserWarning",
    "ignore:Could not find a config file:UserWarning",
    "ignore:.*have invalid shape",  # PEFT takes the one-dimensional lora_bias for a broken factor
)


class Toy(nn.Module):
    """One module of each kind that LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.layers = nn.ModuleList([nn.ModuleDict({"fc": nn.Linear(10, 10)}) for _ in range(3)])
        self.wide = nn.Linear(10, 6, bias=False)
        self.words = nn.Embedding(12, 6)
        self.picture = nn.Conv2d(3, 8, 3)
        self.wave = nn.Conv1d(4, 8, 5)
        self.turned = Conv1D(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def _toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def _stir(model: nn.Module, size: float = 0.1) -> None:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if (
            "lora_" in name
            or "modules_to_save" in name
            or (name.endswith("bias") and parameter.requires_grad)
        ):
            parameter.data += torch.randn_like(parameter) * size


def _truth(model: Any) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.merge_and_unload().state_dict().items()}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["first", "fc", "wide"], "r": 3, "lora_alpha": 5},
    "rslora": {"target_modules": ["first", "fc"], "r": 4, "lora_alpha": 5, "use_rslora": True},
    "dora": {"target_modules": ["first", "fc"], "r": 3, "lora_alpha": 5, "use_dora": True},
    "rank and alpha patterns": {
        "target_modules": ["first", "fc", "wide"], "r": 3, "lora_alpha": 5,
        "rank_pattern": {"layers.1.fc": 2, "^wide": 5},
        "alpha_pattern": {r"layers\.[02]\.fc": 7, "wide": 1.5},
    },
    "rslora with patterns": {
        "target_modules": ["fc"], "r": 3, "lora_alpha": 5, "use_rslora": True,
        "rank_pattern": {"layers.1.fc": 2},
    },
    "lora_bias": {"target_modules": ["first", "fc"], "r": 3, "lora_alpha": 5, "lora_bias": True},
    "trained biases": {"target_modules": ["first", "fc"], "r": 3, "lora_alpha": 5, "bias": "lora_only"},
    "all biases": {"target_modules": ["fc"], "r": 3, "lora_alpha": 5, "bias": "all"},
    "modules_to_save": {"target_modules": ["fc"], "r": 3, "lora_alpha": 5, "modules_to_save": ["first"]},
    "embedding": {"target_modules": ["words", "first"], "r": 3, "lora_alpha": 5},
    "dora embedding": {"target_modules": ["words"], "r": 3, "lora_alpha": 5, "use_dora": True},
    "convolutions": {"target_modules": ["picture", "wave"], "r": 2, "lora_alpha": 5},
    "dora convolution": {"target_modules": ["picture"], "r": 2, "lora_alpha": 5, "use_dora": True},
    "Conv1D": {"target_modules": ["turned"], "r": 2, "lora_alpha": 5, "fan_in_fan_out": True},
    "dora Conv1D": {
        "target_modules": ["turned"], "r": 2, "lora_alpha": 5, "fan_in_fan_out": True, "use_dora": True,
    },
}  # fmt: skip


def _adapt(folder: Path, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Save an adapter of the toy; return the base's tensors and those that PEFT merges to."""
    base = {k: v.clone() for k, v in _toy().state_dict().items()}
    model = get_peft_model(_toy(), LoraConfig(**settings))
    _stir(model)
    model.save_pretrained(folder, save_embedding_layers=False)
    return base, _truth(PeftModel.from_pretrained(_toy(), folder))


def _applied(folder: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    adapter, result = read_adapter(folder), dict(base)
    for name, factors in adapter.modules.items():
        weight = base[f"{name}.weight"]
        assert adapter.shape(name) == factors.shape == tuple(weight.shape)
        assert adapter.rank(name) == factors.rank
        result[f"{name}.weight"] = weight + factors.delta(weight)
        if factors.bias is not None:
            result[f"{name}.bias"] = base[f"{name}.bias"] + factors.bias
    return result | {name: adapter.value(name) for name in adapter.values}


def _far(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).abs().max()) for k in one)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deltas_read_are_what_peft_adds(tmp_path: Path, kind: str) -> None:
    base, truth = _adapt(tmp_path, **KINDS[kind])
    assert _far(_applied(tmp_path, base), truth) < 1e-6  # float32, a few additions


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("trained biases", "all biases")])
def test_what_we_write_peft_loads_to_the_same_weights(tmp_path: Path, kind: str) -> None:
    _, truth = _adapt(tmp_path / "one", **KINDS[kind])
    adapter = read_adapter(tmp_path / "one")
    values = {name: adapter.value(name) for name in adapter.values}
    write_adapter(tmp_path / "two", dict(adapter.modules), base="toy", values=values)
    again = _truth(PeftModel.from_pretrained(_toy(), tmp_path / "two"))
    assert _far(again, truth) < 1e-6


def test_a_setting_that_factors_cannot_express_is_refused(tmp_path: Path) -> None:
    _adapt(tmp_path, **KINDS["plain"])
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for change, why in [
        ({"peft_type": "IA3"}, "only LORA is a low-rank delta"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ]:
        file.write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=why):
            read_adapter(tmp_path)


def test_a_rank_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    _adapt(tmp_path, **KINDS["plain"])
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 7}))
    with pytest.raises(CheckpointError, match=r"'first' has rank 3, adapter_config.json says 7"):
        read_adapter(tmp_path).factors("first")


def test_a_folder_without_an_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json"):
        read_adapter(tmp_path)


def test_target_patterns_match_exactly_the_paths_given() -> None:
    import re

    names = {"a.0.q", "a.10.q", "a.2.b.3.q", "visual.a.0.q", "head"}
    pattern = paths_pattern(names)
    others = ["b.a.0.q", "a.1.q", "a.0.q.x", "a.2.b.0.q", "a.10.b.3.q", "aX0.q", "heads"]
    assert all(re.fullmatch(pattern, name) for name in names)
    assert not any(re.fullmatch(pattern, name) for name in others)


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_every_tower_is_adapted_by_whole_paths_and_comes_back_from_disk(
    tiny: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    found, folder = family(name), tiny(name)
    towers = {t: {"r": 2 + i, "alpha": 3 + i} for i, t in enumerate(found.lora_targets)}
    model = add_lora(found.load(folder).model, found, towers, r=4, alpha=8, seed=3)
    _stir(model)
    save_adapter(model, tmp_path / "adapter", base=folder, family=found)
    truth = _truth(model)

    adapter = read_adapter(tmp_path / "adapter")
    assert adapter.base_fingerprint == Checkpoint(folder).fingerprint()
    assert adapter.family == name
    wanted = lora_modules(found.load(folder).model, found, found.lora_targets)
    for i, (tower, paths) in enumerate(wanted.items()):
        assert {adapter.rank(path) for path in paths} == {2 + i}, tower
    assert set(adapter.names()) == {path for paths in wanted.values() for path in paths}
    with_peft = PeftModel.from_pretrained(found.load(folder).model, tmp_path / "adapter")
    with_ours = load_adapter(found.load(folder).model, tmp_path / "adapter", adapter_name="other")
    assert _far(_truth(with_peft), truth) == 0
    assert _far(_truth(with_ours), truth) == 0


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_each_adapted_module_finds_its_tensor_on_disk(tiny: Callable[[str], Path], name: str) -> None:
    found, folder = family(name), tiny(name)
    model, disk = found.load(folder).model, Checkpoint(folder)
    paths = [p for ps in lora_modules(model, found, found.lora_targets).values() for p in ps]
    weights = {path: model.get_submodule(path).weight for path in paths}
    names = weight_names({path: weight.shape for path, weight in weights.items()}, disk)
    for path, weight in weights.items():
        assert torch.equal(disk.read(names[path]).to(weight.dtype), weight), path


def test_the_start_depends_on_the_seed_alone(tiny: Callable[[str], Path]) -> None:
    found, folder = family("qwen_omni"), tiny("qwen_omni")

    def start(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed * 100)
        before = torch.get_rng_state()
        model = add_lora(found.load(folder).model, found, ["llm"], r=2, alpha=2, seed=7)
        assert torch.equal(torch.get_rng_state(), before)
        return {k: v for k, v in model.state_dict().items() if "lora_A" in k}

    assert _far(start(1), start(2)) == 0


def test_a_tower_whose_rule_matches_nothing_is_an_error(tiny: Callable[[str], Path]) -> None:
    import dataclasses

    found = family("qwen_omni")
    model = found.load(tiny("qwen_omni")).model
    with pytest.raises(ConfigError, match=r"unknown tower 'visoin'; did you mean 'vision'\?"):
        add_lora(model, found, ["visoin"])
    rules = dict(found.lora_targets)
    empty = dataclasses.replace(found, lora_targets=rules | {"llm": r"model\.gone\.\d+"})
    with pytest.raises(ConfigError, match="matches no module"):
        add_lora(model, empty, ["llm"])
    whole = dataclasses.replace(found, lora_targets=rules | {"llm": r"model\.language_model\.layers\.\d+"})
    with pytest.raises(ConfigError, match="LoRA cannot adapt"):
        add_lora(model, whole, ["llm"])
    with pytest.raises(ConfigError, match="choose at least one tower"):
        add_lora(model, found, [])
    with pytest.raises(ConfigError, match="unknown LoRA setting 'rank'"):
        add_lora(model, found, {"llm": {"rank": 3}})
    with pytest.raises(ConfigError, match="r >= 1"):
        add_lora(model, found, ["llm"], r=0)


def test_an_adapter_with_no_matching_key_is_refused(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    found, folder = family("qwen_omni"), tiny("qwen_omni")
    model = add_lora(found.load(folder).model, found, ["llm"], r=2, alpha=2)
    save_adapter(model, tmp_path / "one", base=folder, family=found)
    adapter = read_adapter(tmp_path / "one")
    renamed = {n.replace("language_model", "text_model"): f for n, f in adapter.modules.items()}
    write_adapter(tmp_path / "two", renamed, base=str(folder))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_adapter(found.load(folder).model, tmp_path / "two")
    half = copy.copy(dict(adapter.modules))
    stray = next(iter(half))
    half[stray.replace("layers.0", "layers.9")] = half.pop(stray)
    write_adapter(tmp_path / "three", half, base=str(folder))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_adapter(found.load(folder).model, tmp_path / "three")


def test_a_killed_save_leaves_the_old_adapter(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    found, folder = family("qwen_omni"), tiny("qwen_omni")
    model = add_lora(found.load(folder).model, found, ["projector"], r=2, alpha=2)
    save_adapter(model, tmp_path / "kept", base=folder, family=found)
    before = (tmp_path / "kept/adapter_model.safetensors").read_bytes()
    with pytest.raises(CheckpointError):
        save_adapter(model, tmp_path / "kept", base=tmp_path / "no base", family=found)
    with pytest.raises(CheckpointError, match="without modules"):
        write_adapter(tmp_path / "kept", {}, base="x")
    assert (tmp_path / "kept/adapter_model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]

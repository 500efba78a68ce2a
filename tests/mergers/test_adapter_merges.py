"""Merging adapters: the result is the merge of the true deltas, for any mix of kinds, and PEFT loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from mergers import MergeSpec, merge, merged_factors, plan, replay, verify
from mergers._factors import compress, factorise
from studio.adapters import add_lora, load_adapter, read_adapter, save_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.families import family

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # PEFT asks transformers by an old name
    "ignore:.*have invalid shape",  # PEFT takes the one-dimensional lora_bias for a broken factor
    "ignore:Could not find a config file:UserWarning",
)

Tensors = dict[str, Tensor]
LAYERS = r"model\.language_model\.layers\.\d+\.(self_attn\.q_proj|mlp\.up_proj)"
AUDIO = r"model\.audio_tower\.layers\.\d+\.fc1"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": LAYERS, "r": 3, "lora_alpha": 5},
    "another rank and tower": {"target_modules": f"{LAYERS}|{AUDIO}", "r": 5, "lora_alpha": 2},
    "rslora": {"target_modules": LAYERS, "r": 4, "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        "target_modules": LAYERS, "r": 3, "lora_alpha": 5,
        "rank_pattern": {r".*layers\.1\.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 7},
    },
    "dora": {"target_modules": LAYERS, "r": 3, "lora_alpha": 5, "use_dora": True},
    "lora_bias": {"target_modules": AUDIO, "r": 3, "lora_alpha": 5, "lora_bias": True},
    "trained biases": {"target_modules": AUDIO, "r": 3, "lora_alpha": 5, "bias": "lora_only"},
    "all biases": {"target_modules": AUDIO, "r": 3, "lora_alpha": 5, "bias": "all"},
    "modules_to_save": {
        "target_modules": LAYERS, "r": 3, "lora_alpha": 5, "modules_to_save": ["audio_tower.proj"],
    },
    "embedding": {"target_modules": r"model\.audio_tower\.audio_bos_eos_token", "r": 3, "lora_alpha": 5},
    "convolution": {"target_modules": r"model\.audio_tower\.conv1", "r": 3, "lora_alpha": 5},
}  # fmt: skip


@pytest.fixture(scope="session")
def base(tiny: Callable[[str], Path]) -> Path:
    return tiny("qwen_omni")


def _model(base: Path) -> Any:
    return family("qwen_omni").load(base).model


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one adapter of each kind, saved by PEFT itself."""
    folder = tmp_path_factory.mktemp("adapters")
    for i, (kind, settings) in enumerate(KINDS.items()):
        torch.manual_seed(i)
        model = get_peft_model(_model(base), LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or (parameter.requires_grad and "bias" in name):
                parameter.data += torch.randn_like(parameter) * 0.05
        model.save_pretrained(folder / kind, save_embedding_layers=False)
    return {kind: folder / kind for kind in KINDS}


def _state(model: Any) -> Tensors:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _changed(base: Path, adapter: Path) -> Tensors:
    """Return what PEFT changes in the model's tensors under an adapter.

    PEFT runs an adapter with biases on modules that have none, but does not merge it: then what we read.
    """
    model = _model(base)
    before = _state(model)
    read = read_adapter(adapter)
    modules = dict(model.named_modules())
    if any(f.bias is not None and modules[n].bias is None for n, f in read.modules.items()):
        after = before | {n: read.value(n) for n in read.values}
        for name, factors in read.modules.items():
            after[f"{name}.weight"] = before[f"{name}.weight"] + factors.delta(before[f"{name}.weight"])
            if f"{name}.bias" in before and factors.bias is not None:
                after[f"{name}.bias"] = before[f"{name}.bias"] + factors.bias
    else:
        after = _state(load_adapter(model, adapter).merge_and_unload())
    assert before.keys() == after.keys()
    return {k: after[k] - before[k] for k in before}


def _weighted(parts: list[Tensors], weights: list[float]) -> Tensors:
    return {k: sum(w * p[k] for w, p in zip(weights, parts, strict=True)) for k in parts[0]}  # type: ignore[misc]


def _error(found: Tensors, truth: Tensors) -> float:
    """Return the relative error over the whole model."""
    assert found.keys() == truth.keys()
    lost = sum(float((found[k] - truth[k]).double().square().sum()) for k in truth)
    size = sum(float(truth[k].double().square().sum()) for k in truth)
    return (lost / size) ** 0.5


def _spec(method: str, models: list[Path], base: Path, **more: Any) -> MergeSpec:
    return MergeSpec.from_mapping(
        {"method": method, "base": str(base), "models": [str(m) for m in models], **more}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_with_weight_one_is_itself(
    base: Path, adapters: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    truth = _changed(base, adapters[kind])
    for output in ("adapter", "model"):
        merge(_spec("linear", [adapters[kind]], base, output=output), tmp_path / output)
    assert _error(_changed(base, tmp_path / "adapter"), truth) < 1e-5
    ground = _state(_model(base))
    full = {k: v - ground[k] for k, v in _state(_model(tmp_path / "model")).items()}
    assert _error(full, truth) < 1e-5


@pytest.mark.parametrize(
    "mix",
    [
        ["plain", "another rank and tower"],
        ["plain", "rslora", "patterns", "another rank and tower"],
        ["dora", "plain"],
        ["dora", "another rank and tower", "rslora"],
        ["lora_bias", "another rank and tower", "trained biases"],
        ["all biases", "plain"],
        ["modules_to_save", "plain"],
        ["embedding", "convolution", "plain"],
    ],
    ids="+".join,
)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_any_mix_adds_up_to_the_weighted_sum_of_true_deltas(
    base: Path, adapters: dict[str, Path], tmp_path: Path, mix: list[str], method: str
) -> None:
    weights = [0.7, 0.2, 0.4, -0.3][: len(mix)]
    models = [{"path": str(adapters[k]), "weight": w} for k, w in zip(mix, weights, strict=True)]
    spec = MergeSpec.from_mapping({"method": method, "base": str(base), "models": models})
    report = merge(spec, tmp_path / "out")
    shares = [w / sum(weights) for w in weights] if method == "linear" else weights
    truth = _weighted([_changed(base, adapters[k]) for k in mix], shares)
    assert _error(_changed(base, tmp_path / "out"), truth) < 1e-5
    assert report.energy == pytest.approx(1.0)


@pytest.mark.parametrize(
    "method", ["ties", "dare_ties", "dare_linear", "breadcrumbs", "della", "karcher", "sce"]
)
def test_adapter_and_full_model_are_the_same_merge(
    base: Path, adapters: dict[str, Path], tmp_path: Path, method: str
) -> None:
    inputs = [adapters["plain"], adapters["another rank and tower"], adapters["rslora"]]
    merge(_spec(method, inputs, base), tmp_path / "adapter")
    merge(_spec(method, inputs, base, output="model"), tmp_path / "model")
    ground = _state(_model(base))
    full = {k: v - ground[k] for k, v in _state(_model(tmp_path / "model")).items()}
    assert _error(_changed(base, tmp_path / "adapter"), full) < 1e-4  # the model rounds the sum to float32


def test_the_scope_of_a_whole_model_holds_for_adapters_too(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    inputs = [adapters["plain"], adapters["rslora"]]
    settings = {"scope": "model", "density": 0.1}
    merge(_spec("ties", inputs, base, settings=settings), tmp_path / "adapter")
    merge(_spec("ties", inputs, base, settings=settings, output="model"), tmp_path / "model")
    ground = _state(_model(base))
    full = {k: v - ground[k] for k, v in _state(_model(tmp_path / "model")).items()}
    assert _error(_changed(base, tmp_path / "adapter"), full) < 1e-4
    assert len({float((v != 0).float().mean()) for v in full.values() if v.any()}) > 1


def test_plain_peft_loads_the_result(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    merge(_spec("linear", [adapters["plain"], adapters["patterns"]], base), tmp_path / "out")
    model = PeftModel.from_pretrained(_model(base), tmp_path / "out")
    assert _error(_state(model.merge_and_unload()), _state(_model(base))) > 0
    assert json.loads((tmp_path / "out/triptych.json").read_text())["base_fingerprint"]


def test_a_smaller_rank_is_the_best_one_and_its_energy_is_told(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    inputs = [adapters["plain"], adapters["rslora"]]
    whole = merge(_spec("linear", inputs, base), tmp_path / "whole")
    assert {m.rank for m in whole.modules} == {7}
    small = merge(_spec("linear", inputs, base, rank=2), tmp_path / "small")
    share = merge(_spec("linear", inputs, base, rank=0.9), tmp_path / "share")
    exact, cut = read_adapter(tmp_path / "whole"), read_adapter(tmp_path / "small")
    for module in small.modules:
        delta, kept = exact.factors(module.name).delta(), cut.factors(module.name).delta()
        values = torch.linalg.svdvals(delta.double())
        best = float(values[2:].square().sum().sqrt())
        assert float((delta - kept).norm()) == pytest.approx(best, rel=1e-4)
        assert module.energy == pytest.approx(
            float(values[:2].square().sum() / values.square().sum()), rel=1e-5
        )
    assert small.energy < 1
    assert all(m.energy >= 0.9 for m in share.modules)
    assert min(m.rank for m in share.modules) < 7


def test_merging_needs_no_base_where_no_delta_depends_on_it(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    inputs = [str(adapters["plain"]), str(adapters["rslora"])]
    merge(MergeSpec.from_mapping({"method": "ties", "models": inputs}), tmp_path / "out")
    for kind in ("dora", "modules_to_save"):
        shutil.copytree(adapters[kind], tmp_path / kind)
        file = tmp_path / kind / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": ""}))
        with pytest.raises(MergeError, match="depend on the base; name it"):
            plan(MergeSpec.from_mapping({"method": "linear", "models": [str(tmp_path / kind)]}))


def test_the_order_and_the_number_of_threads_do_not_matter(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    inputs = [adapters["plain"], adapters["rslora"], adapters["patterns"]]
    prints = set()
    for i, threads in enumerate((1, 2, 5)):
        merge(_spec("dare_ties", inputs, base, threads=threads), tmp_path / str(i))
        prints.add(Checkpoint(tmp_path / str(i)).fingerprint())
    assert len(prints) == 1
    merge(_spec("dare_ties", inputs[::-1], base), tmp_path / "turned")
    assert _error(_changed(base, tmp_path / "turned"), _changed(base, tmp_path / "0")) < 1e-5
    merge(_spec("dare_ties", inputs, base, seed=1), tmp_path / "other seed")
    assert _error(_changed(base, tmp_path / "other seed"), _changed(base, tmp_path / "0")) > 0.1


def test_adapters_of_different_bases_are_refused_before_anything_is_written(
    base: Path, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    found = family("qwen_omni")
    for name, fingerprint in (("one", "a" * 64), ("two", "b" * 64)):
        model = add_lora(_model(base), found, ["llm"], r=2, alpha=2)
        save_adapter(model, tmp_path / name, base="some/base", base_fingerprint=fingerprint, family=found)
    spec = MergeSpec.from_flags(method="linear", models=[str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(MergeError, match=r"their weights differ, so their deltas do not add up"):
        merge(spec, tmp_path / "out")
    spec = MergeSpec.from_flags(method="linear", models=[str(tmp_path / "one")], base=base)
    with pytest.raises(MergeError, match="whose weights are not those of"):
        merge(spec, tmp_path / "out")
    other = family("whisper")
    model = add_lora(other.load(tiny("whisper")).model, other, list(other.lora_targets), r=2, alpha=2)
    save_adapter(model, tmp_path / "three", base=tiny("whisper"), family=other)
    spec = MergeSpec.from_flags(method="linear", base=base, models=[str(tmp_path / "three")], allow=["base"])
    with pytest.raises(CheckpointError, match="does not fit"):
        merge(spec, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "three", "two"]


def test_modules_of_different_shapes_are_refused(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from studio.adapters import write_adapter

    adapter = read_adapter(adapters["plain"])
    wide = dict(adapter.modules)
    name = next(iter(wide))
    from dataclasses import replace

    first = wide[name]
    wide[name] = replace(first, b=torch.cat([first.b, first.b]), shape=(2 * first.shape[0], first.shape[1]))
    write_adapter(tmp_path / "wide", wide, base="")
    spec = MergeSpec.from_flags(method="linear", models=[str(adapters["plain"]), str(tmp_path / "wide")])
    with pytest.raises(MergeError, match=rf"'{name}' is \[.*\] in .*wide but \[.*\] in .*plain"):
        merge(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers_are_refused(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from dataclasses import replace

    from studio.adapters import write_adapter

    modules = dict(read_adapter(adapters["plain"]).modules)
    name = next(iter(modules))
    modules[name] = replace(modules[name], a=modules[name].a * float("nan"))
    write_adapter(tmp_path / "bad", modules, base="")
    for method in ("linear", "ties"):
        spec = MergeSpec.from_flags(method=method, models=[str(adapters["plain"]), str(tmp_path / "bad")])
        with pytest.raises(MergeError, match=f"'{name}' of .*bad holds values that are not finite"):
            merge(spec, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_lock_file_proves_and_repeats_a_merge(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    spec = _spec("dare_ties", [adapters["plain"], adapters["rslora"]], base, seed=4)
    report = merge(spec, tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert replay(tmp_path / "out", tmp_path / "again").fingerprint == report.fingerprint
    weights = tmp_path / "again/adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert verify(tmp_path / "again") == [
        f"the weights in {tmp_path / 'again'} are not those that the merge wrote"
    ]


def test_factors_of_a_zero_delta_have_rank_one_and_are_zero() -> None:
    pair = compress(torch.zeros(5, 3), torch.randn(3, 4), "lossless")
    assert pair.b.shape == (5, 1)
    assert not (pair.b @ pair.a).any()
    assert factorise(torch.zeros(4, 6), 3).energy == 1.0


def test_factors_in_memory_are_those_of_the_folder(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    names = ("plain", "another rank and tower", "rslora")
    for method, settings in (("linear", {"weight": 0.4}), ("ties", {"density": 0.5}), ("tsv_m", {})):
        spec = _spec(method, [adapters[name] for name in names], base, settings=settings)
        made = merged_factors(spec)
        merge(spec, tmp_path / method)
        kept = read_adapter(tmp_path / method).modules
        assert made.keys() == kept.keys()
        for name, each in made.items():
            torch.testing.assert_close(each.delta(), kept[name].delta(), rtol=0, atol=1e-6)
    with pytest.raises(MergeError, match="more than factors; merge into a folder"):
        merged_factors(_spec("linear", [adapters["modules_to_save"], adapters["plain"]], base))

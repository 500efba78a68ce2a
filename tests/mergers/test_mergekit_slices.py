"""Slices, modules and types of mergekit's files: the same tensors, and models that load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from mergers import MergeSpec, merge
from studio.checkpoint import Checkpoint
from tests.mergers.mergekit_runs import Models, llamas, same, tensors, written


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return llamas(tmp_path_factory.mktemp("llamas"))


SLICES = {
    "a model of layers from two models": """
        slices:
          - sources: [{model: <a>, layer_range: [0, 3]}]
          - sources: [{model: <b>, layer_range: [1, 4]}]
          - sources: [{model: <deep>, layer_range: [4, 6]}]
        merge_method: passthrough
        dtype: float32
        """,
    "one model's layers again": """
        slices:
          - sources: [{model: <a>, layer_range: [0, 3]}]
          - sources:
              - model: <a>
                layer_range: [1, 4]
                parameters: {scale: [{filter: down_proj, value: [0.2, 0.8]}, {filter: o_proj, value: 0}]}
        merge_method: passthrough
        """,
    "fewer layers than there were": """
        slices:
          - sources: [{model: <deep>, layer_range: [0, 2]}]
          - sources: [{model: <deep>, layer_range: [4, 6]}]
        merge_method: passthrough
        """,
    "layers merged with those of another depth": """
        slices:
          - sources:
              - {model: <a>, layer_range: [0, 2], parameters: {weight: 0.3}}
              - {model: <b>, layer_range: [2, 4], parameters: {weight: [0.9, 0.1]}}
          - sources:
              - {model: <b>, layer_range: [0, 3]}
              - {model: <deep>, layer_range: [3, 6]}
            parameters: {weight: [{filter: mlp, value: [0.1, 0.5, 0.9]}, {value: 0.4}]}
        merge_method: linear
        parameters: {weight: 0.6}
        """,
    "slices with bases of their own": """
        slices:
          - sources:
              - {model: <base>, layer_range: [0, 2]}
              - {model: <a>, layer_range: [0, 2], parameters: {weight: 0.5}}
          - sources:
              - {model: <b>, layer_range: [1, 4]}
              - {model: <a>, layer_range: [1, 4], parameters: {weight: 0.7, density: 0.6}}
            base_model: <b>
          - sources:
              - {model: <base>, layer_range: [3, 4]}
        merge_method: ties
        base_model: <base>
        parameters: {density: 0.5}
        """,
}  # fmt: skip


@pytest.mark.parametrize("name", SLICES)
def test_slices_give_what_they_give_there_and_a_model_that_loads(
    name: str, models: Models, tmp_path: Path
) -> None:
    out = same(SLICES[name], models, tmp_path, clone_tensors=True)
    count = json.loads((out / "config.json").read_text())["num_hidden_layers"]
    assert count == json.loads((tmp_path / "theirs/config.json").read_text())["num_hidden_layers"]
    assert count == 1 + max(int(n.split(".")[2]) for n in tensors(out) if ".layers." in n)
    model, info = transformers.LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model(torch.tensor([[1, 5, 7]])).logits.isfinite().all()


TYPES = {
    "dtype": ("dtype: bfloat16", 0.008),
    "out_dtype": ("dtype: float32\nout_dtype: bfloat16", 0.004),
    "out_dtype alone": ("out_dtype: float16", 0.001),
}


@pytest.mark.parametrize("name", TYPES)
def test_the_type_is_the_one_asked_for(name: str, models: Models, tmp_path: Path) -> None:
    lines, step = TYPES[name]
    text = f"""
models:
  - {{model: <a>, parameters: {{weight: 0.6}}}}
  - {{model: <b>, parameters: {{weight: 0.4}}}}
merge_method: linear
{lines}
"""
    # Values below 2 may fall on different sides of a step of the type: mergekit rounds the inputs, too.
    out = same(text, models, tmp_path, 2 * step)
    kind = lines.split()[-1]
    assert {str(value.dtype) for value in tensors(out).values()} == {f"torch.{kind}"}
    assert json.loads((out / "config.json").read_text())["dtype"] == kind


def test_without_a_type_it_is_the_widest_of_the_inputs(models: Models, tmp_path: Path) -> None:
    text = """
models: [{model: <half-a>}, {model: <b>}]
merge_method: linear
parameters: {weight: 0.5}
"""
    same(text, models, tmp_path)


def test_half_precision_inputs_are_computed_with_in_full(models: Models, tmp_path: Path) -> None:
    text = """
models:
  - {model: <half-a>, parameters: {weight: 0.6}}
  - {model: <half-b>, parameters: {weight: 0.4}}
merge_method: task_arithmetic
base_model: <half-base>
dtype: float32
out_dtype: bfloat16
"""
    same(text, models, tmp_path, 0.008)  # a step of bfloat16 at values of 1 to 2


Base = Callable[[str], Path]
Experts = Callable[..., list[Path]]


def _multimodal(name: str, base_of: Base, experts_of: Experts) -> Models:
    first, second = experts_of(name)
    return {"base": base_of(name), "a": first, "b": second}


def test_gradients_run_along_each_tower_of_a_multimodal_model(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    text = """
        models:
          - {model: <a>, parameters: {weight: [{filter: merger, value: 0.4}, {value: [0, 0.8]}]}}
          - model: <b>
            parameters:
              weight:
                - {filter: merger, value: 0.3}  # a projector has no depth; their table counts it as layers
                - {filter: visual, value: [1, 0.2]}
                - value: 0.5
        merge_method: task_arithmetic
        base_model: <base>
        dtype: float32
        """
    same(text, _multimodal("qwen2_5_vl", base_of, experts_of), tmp_path)


def test_modules_are_merged_each_in_its_way(base_of: Base, experts_of: Experts, tmp_path: Path) -> None:
    text = """
        modules:
          text_decoder:
            slices:
              - sources:
                  - {model: <a>, layer_range: [0, 2], parameters: {weight: 0.3}}
                  - {model: <b>, layer_range: [0, 2], parameters: {weight: [0.9, 0.1]}}
              - sources: [{model: <b>, layer_range: [1, 2]}]
            parameters: {weight: 0.5}
          vision_tower: {models: [{model: <a>}]}
          multi_modal_projector: {models: [{model: <a>}, {model: <b>, parameters: {weight: 2}}]}
        merge_method: linear
        dtype: float32
        parameters: {weight: 1.0}
        """
    out = same(text, _multimodal("qwen2_5_vl", base_of, experts_of), tmp_path)
    assert json.loads((out / "config.json").read_text())["text_config"]["num_hidden_layers"] == 3


def test_slices_of_a_multimodal_model_are_its_language_models_and_its_towers_stay(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    named = _multimodal("qwen_omni", base_of, experts_of)
    text = """
        slices:
          - sources: [{model: <a>, layer_range: [0, 2]}]
          - sources: [{model: <b>, layer_range: [1, 2]}]
        merge_method: passthrough
        base_model: <base>
        """
    merge(MergeSpec.from_yaml(written(text, named, tmp_path)), tmp_path / "out")
    base, first, second, found = (tensors(f) for f in (*named.values(), tmp_path / "out"))
    stacked = {name for name in found if ".layers.2." in name and name not in base}
    assert stacked
    for name, value in found.items():
        if name in stacked:
            assert torch.equal(value, second[name.replace(".layers.2.", ".layers.1.")])
        elif "visual" in name or "audio_tower" in name:
            assert torch.equal(value, base[name])
        elif "embed_tokens" in name or ".layers." in name:
            assert torch.equal(value, first[name])
        else:  # the last norm and the head come from the last slice
            assert torch.equal(value, second[name])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 3
    companions = set(Checkpoint(named["base"]).companions())
    assert companions <= set(Checkpoint(tmp_path / "out").companions())
    kind = getattr(transformers, config["architectures"][0])
    _, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]

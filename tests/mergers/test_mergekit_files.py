"""mergekit's files run as they are, and give the tensors that mergekit itself gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import Tensor

from mergers import MergeSpec, merge
from studio.checkpoint import Checkpoint

with warnings.catch_warnings():  # of numpy, about a name that mergekit uses
    warnings.simplefilter("ignore", DeprecationWarning)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

#: float32 sums in another order.
ROUNDING = 1e-6
LAYERS = 4

Models = dict[str, Path]


def _llama(layers: int = LAYERS, vocabulary: int = 96) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return a base and three models a little away from it, a deeper one, and the same in bfloat16."""
    folder = tmp_path_factory.mktemp("llamas")
    torch.manual_seed(0)
    base = _llama()
    found = {"base": folder / "base"}
    base.save_pretrained(found["base"])
    base.to(torch.bfloat16).save_pretrained(folder / "half-base")
    for number, name in enumerate("abc", 1):
        torch.manual_seed(number)
        model = transformers.LlamaForCausalLM.from_pretrained(found["base"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        found[name] = folder / name
        model.save_pretrained(found[name])
        found[f"half-{name}"] = folder / f"half-{name}"
        model.to(torch.bfloat16).save_pretrained(found[f"half-{name}"])
    found["half-base"] = folder / "half-base"
    torch.manual_seed(9)
    found["deep"] = folder / "deep"
    _llama(6).save_pretrained(found["deep"])
    return found


def _written(text: str, models: Models, tmp_path: Path) -> Path:
    for name in sorted(models, key=len, reverse=True):
        text = text.replace(f"<{name}>", str(models[name]))
    file = tmp_path / "merge.yaml"
    file.write_text(text)
    return file


def _theirs(file: Path, out: Path, **options: Any) -> dict[str, Tensor]:
    config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    run_merge(config, str(out), MergeOptions(quiet=True, write_model_card=False, **options))
    return _tensors(out)


def _tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def _same(text: str, models: Models, tmp_path: Path, tolerance: float = ROUNDING, **options: Any) -> Path:
    """Run a file with mergekit and with us; compare names, shapes, types and values. Return our result."""
    file = _written(text, models, tmp_path)
    expected = _theirs(file, tmp_path / "theirs", **options)
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    found = _tensors(tmp_path / "ours")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        difference = float((found[name].double() - value.double()).abs().max())
        assert difference <= tolerance, f"{name} differs by {difference:.2e}"
    return tmp_path / "ours"


#: One realistic file per method: weights by model and by layer, filters, defaults.
FILES = {
    "linear": """
        models:
          - {model: <a>, parameters: {weight: [1.0, 0.5, 0.2]}}
          - {model: <b>, parameters: {weight: [{filter: self_attn, value: [0, 1]}, {value: 0.7}]}}
          - model: <c>
        parameters: {weight: 0.4}
        merge_method: linear
        """,
    "linear without normalize": """
        models:
          - {model: <a>, parameters: {weight: 0.7}}
          - {model: <b>, parameters: {weight: -0.1}}
        merge_method: linear
        base_model: <base>
        parameters: {normalize: false, weight: 0.5}
        """,
    "slerp": """
        slices:
          - sources:
              - {model: <a>, layer_range: [0, 4]}
              - {model: <b>, layer_range: [0, 4]}
        merge_method: slerp
        base_model: <a>
        parameters:
          t:
            - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
            - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
            - value: 0.5
        """,
    "slerp with the base last": """
        models: [{model: <b>}, {model: <a>}]
        merge_method: slerp
        base_model: <a>
        parameters: {t: 0.3}
        """,
    "task_arithmetic": """
        models:
          - model: <base>
          - {model: <a>, parameters: {weight: [0.3, 0.9]}}
          - {model: <b>, parameters: {weight: 0.4}}
        merge_method: task_arithmetic
        base_model: <base>
        parameters: {lambda: 0.8, normalize: true, int8_mask: true}
        """,
    "ties": """
        models:
          - model: <a>
            parameters: {density: [1, 0.7, 0.1], weight: 1.0}
          - model: <b>
            parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
          - model: <c>
            parameters:
              density: 0.33
              weight:
                - {filter: mlp, value: 0.5}
                - value: 0
        merge_method: ties
        base_model: <base>
        parameters: {normalize: true, int8_mask: true}
        """,
    "ties that keep nothing of a model somewhere": """
        models:
          - {model: <a>, parameters: {density: [0, 1], weight: 0.6}}
          - {model: <b>, parameters: {density: 0.4, weight: 0.5}}
        merge_method: ties
        base_model: <base>
        parameters: {normalize: false, lambda: 1.2}
        """,
    "breadcrumbs": """
        models:
          - {model: <a>, parameters: {weight: 0.5, density: 0.8, gamma: 0.05}}
          - {model: <b>, parameters: {weight: 0.5, density: [0.9, 0.4]}}
        merge_method: breadcrumbs
        base_model: <base>
        """,
    "breadcrumbs_ties": """
        models:
          - {model: <a>, parameters: {weight: 0.5}}
          - {model: <b>, parameters: {weight: 0.8}}
        merge_method: breadcrumbs_ties
        base_model: <base>
        parameters: {density: 0.7, gamma: 0.1, normalize: true}
        """,
    "model_stock": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: model_stock
        base_model: <base>
        """,
    "nuslerp": """
        models:
          - {model: <a>, parameters: {weight: [0.2, 0.8]}}
          - {model: <b>, parameters: {weight: 0.5}}
        merge_method: nuslerp
        """,
    "nuslerp of differences": """
        models:
          - {model: <a>, parameters: {weight: 0.3}}
          - {model: <b>, parameters: {weight: 0.9}}
        merge_method: nuslerp
        base_model: <base>
        """,
    "multislerp": """
        models:
          - {model: <a>, parameters: {weight: 0.3}}
          - {model: <b>, parameters: {weight: 0.9}}
          - {model: <c>, parameters: {weight: [0.1, 0.5]}}
        merge_method: multislerp
        base_model: <base>
        parameters: {eps: 1e-8}
        """,
    "karcher": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: karcher
        parameters: {max_iter: 5, tol: 1e-5}
        """,
    "sce": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: sce
        base_model: <base>
        parameters: {select_topk: 0.4}
        """,
    "nearswap": """
        models: [{model: <a>}, {model: <b>}]
        merge_method: nearswap
        base_model: <a>
        parameters: {t: [0.001, 0.02]}
        """,
    "ram": """
        models: [{model: <a>}, {model: <b>}]
        merge_method: ram
        base_model: <base>
        parameters: {epsilon: 0.005}
        """,
    "passthrough with scales": """
        slices:
          - sources:
              - model: <a>
                layer_range: [0, 4]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.5}
                    - value: 1.0
        merge_method: passthrough
        """,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_mergekit_gives_what_mergekit_gives(name: str, models: Models, tmp_path: Path) -> None:
    _same(FILES[name], models, tmp_path)


DROPPING = {
    "dare_ties": "parameters: {normalize: true}",
    "dare_linear": "parameters: {lambda: 0.9}",
    "della": "parameters: {epsilon: 0.1}",
    "della_linear": "parameters: {normalize: true}",
}


@pytest.mark.parametrize("method", DROPPING)
def test_methods_that_draw_at_random_agree_where_they_drop_nothing(
    method: str, models: Models, tmp_path: Path
) -> None:
    text = f"""
        models:
          - {{model: <a>, parameters: {{weight: [0.2, 0.9], density: 1.0}}}}
          - {{model: <b>, parameters: {{weight: 0.5}}}}
        merge_method: {method}
        base_model: <base>
        {DROPPING[method]}
        """
    _same(text, models, tmp_path)


@pytest.mark.parametrize("method", DROPPING)
def test_methods_that_draw_at_random_drop_as_much_and_make_up_for_it_alike(
    method: str, models: Models, tmp_path: Path
) -> None:
    text = f"""
        models: [{{model: <a>, parameters: {{weight: 1, density: 0.6}}}}]
        merge_method: {method}
        base_model: <base>
        """
    file = _written(text, models, tmp_path)
    expected, base = _theirs(file, tmp_path / "theirs", random_seed=1), _tensors(models["base"])
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    found, tuned = _tensors(tmp_path / "ours"), _tensors(models["a"])
    kept, counted = [0.0, 0.0], 0
    for name, ground in base.items():
        parts = [(value[name] - ground).double() for value in (found, expected, tuned)]
        sums = [float(part.abs().sum()) for part in parts]
        # The sum of magnitudes is restored, to what float32 can tell of values around 1.
        assert max(sums) - min(sums) < 1e-4 * sums[2] + 1e-5, name
        if ground.dim() == 2:
            counted += ground.numel()
            kept = [total + float((part != 0).sum()) for total, part in zip(kept, parts, strict=False)]
    assert abs(kept[0] - kept[1]) / counted < 0.01  # five standard deviations
    assert 0.58 < kept[0] / counted < 0.62


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
    out = _same(SLICES[name], models, tmp_path, clone_tensors=True)
    count = json.loads((out / "config.json").read_text())["num_hidden_layers"]
    assert count == json.loads((tmp_path / "theirs/config.json").read_text())["num_hidden_layers"]
    assert count == 1 + max(int(n.split(".")[2]) for n in _tensors(out) if ".layers." in n)
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
    out = _same(text, models, tmp_path, 2 * step)
    kind = lines.split()[-1]
    assert {str(value.dtype) for value in _tensors(out).values()} == {f"torch.{kind}"}
    assert json.loads((out / "config.json").read_text())["dtype"] == kind


def test_without_a_type_it_is_the_widest_of_the_inputs(models: Models, tmp_path: Path) -> None:
    text = """
models: [{model: <half-a>}, {model: <b>}]
merge_method: linear
parameters: {weight: 0.5}
"""
    _same(text, models, tmp_path)


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
    _same(text, models, tmp_path, 0.008)  # a step of bfloat16 at values of 1 to 2


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
    _same(text, _multimodal("qwen2_5_vl", base_of, experts_of), tmp_path)


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
    out = _same(text, _multimodal("qwen2_5_vl", base_of, experts_of), tmp_path)
    assert json.loads((out / "config.json").read_text())["text_config"]["num_hidden_layers"] == 3

"""What a mergekit file may say, how it is kept, and what is told where it is wrong or not supported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers

from apps.cli import main
from mergers import MergeSpec, merge, plan, replay, verify
from mergers._mergekit import Recipe
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError
from tests.mergers.mergekit_runs import Models, llamas, same, tensors, written

TIES = """
models:
  - {model: <a>, parameters: {weight: 1e-1, density: [1, 0.5]}}
  - {model: <b>, parameters: {weight: 0.5}}
merge_method: ties
base_model: <base>
parameters: {density: 0.3}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return llamas(tmp_path_factory.mktemp("llamas"))


def _recipe(text: str, models: Models, tmp_path: Path) -> Recipe:
    recipe = MergeSpec.from_yaml(written(text, models, tmp_path)).recipe
    assert recipe is not None
    return recipe


def test_a_file_is_kept_as_it_is_and_our_keys_extend_it(models: Models, tmp_path: Path) -> None:
    file = written(TIES + "seed: 7\nallow: [norm]\nshard_size: 60KB\n", models, tmp_path)
    spec = MergeSpec.from_yaml(file)
    assert (spec.method, spec.seed, spec.allow, spec.shard_size) == ("ties", 7, ("norm",), 60_000)
    assert [model.path for model in spec.models] == [models["a"], models["b"]]
    assert spec == MergeSpec.from_mapping(spec.to_mapping())
    assert spec.to_mapping()["models"][0] == {
        "model": str(models["a"]), "parameters": {"weight": "1e-1", "density": [1, 0.5]},
    }  # fmt: skip
    merge(spec, tmp_path / "out")
    assert len(Checkpoint(tmp_path / "out").files) > 1
    assert json.loads((tmp_path / "out/merge.lock.json").read_text())["recipe"]["merge_method"] == "ties"
    assert verify(tmp_path / "out") == []
    assert replay(tmp_path / "out", tmp_path / "again").fingerprint
    changed = MergeSpec.from_yaml(file, method="task_arithmetic", seed=2)
    assert (changed.method, changed.seed) == ("task_arithmetic", 2)


def test_a_dry_run_writes_nothing_and_tells_what_gradients_come_to(models: Models, tmp_path: Path) -> None:
    text = plan(MergeSpec.from_yaml(written(TIES, models, tmp_path))).text()
    assert "density=[0.5 to 1, 0.3]" in text
    assert [path.name for path in tmp_path.iterdir()] == ["merge.yaml"]


def test_the_base_is_one_of_the_models_only_where_mergekit_makes_it_one(
    models: Models, tmp_path: Path
) -> None:
    assert len(_recipe(TIES, models, tmp_path).models) == 2
    linear = TIES.replace("ties", "linear").replace("density: 0.3", "weight: 1")
    assert len(_recipe(linear, models, tmp_path).models) == 3


def test_adapters_are_baked_into_the_models_they_stand_behind(models: Models, tmp_path: Path) -> None:
    named = dict(models)
    for number, base in ((1, "a"), (2, "b")):
        torch.manual_seed(number)
        model = transformers.LlamaForCausalLM.from_pretrained(models[base])
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
        tuned = peft.get_peft_model(model, config)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        named[f"lora-{base}"] = tmp_path / f"lora-{base}"
        tuned.save_pretrained(named[f"lora-{base}"])
    text = """
        slices:
          - sources:
              - {model: <a>+<lora-a>, layer_range: [0, 2]}
              - {model: {model: {path: <b>}, lora: {path: <lora-b>}}, layer_range: [0, 2]}
          - sources: [{model: <b>+<lora-b>, layer_range: [1, 4]}]
        merge_method: linear
        parameters: {weight: 1}
        """
    same(text, named, tmp_path, lora_merge_cache=str(tmp_path / "cache"))
    text = """
        slices: [{sources: [{model: <a>+<lora-a>, layer_range: [0, 4]}]}]
        merge_method: passthrough
        """
    merge(MergeSpec.from_yaml(written(text, named, tmp_path)), tmp_path / "baked")
    baked, plain = tensors(tmp_path / "baked"), tensors(models["a"])
    changed = {name for name in baked if not torch.equal(baked[name], plain[name])}
    assert changed == {name for name in plain if "q_proj" in name or "down_proj" in name}


WRONG = {
    "merge_method: tyes\nmodels: [{model: <a>}]": "unknown merge_method 'tyes'; did you mean 'ties'",
    "merge_method: tsv_m\nmodels: [{model: <a>}]": "as a method of ours it is written method: tsv_m",
    "models: [{model: <a>}]": "'merge_method' is missing",
    "merge_method: linear": "exactly one of models, slices and modules must be there, not none",
    "merge_method: linear\nmodels: [{model: <a>}]\nbase_modl: x": "did you mean 'base_model'?",
    "merge_method: linear\nmodels: [{modl: <a>}]\nbase_model: <base>": "unknown key of models[0] 'modl'",
    "merge_method: linear\nmodels: [{model: 3}]": "models[0]: a model is a folder or MODEL+ADAPTER, not 3",
    "merge_method: linear\nmodels: [{model: org/x@main}]": "'org/x@main' asks for a revision",
    "merge_method: ties\nmodels: [{model: <a>}]": "merge_method ties needs a base_model",
    "merge_method: slerp\nbase_model: <a>\nmodels: [{model: <b>}, {model: <c>}]":
        "models: slerp merges 2 models, not 3",
    "merge_method: model_stock\nbase_model: <base>\nmodels: [{model: <b>}]":
        "model_stock merges at least 2 models beside the base, not 1",
    "merge_method: linear\nmodels: [{model: <a>}, {model: <a>}]": "takes part once",
    "merge_method: linear\nslices: [{sources: [{model: <a>, layer_range: [2, 2]}]}]":
        "layer_range must be [first, end] with first < end, not [2, 2]",
    "merge_method: linear\nslices: [{sources: [{model: <a>, layer_range: [0, 2]}, "
    "{model: <b>, layer_range: [0, 3]}]}]": "all sources must have the same number of layers, not [2, 3]",
    "merge_method: ties\nbase_model: <base>\nslices: [{sources: [{model: <a>, layer_range: [0, 2]}]}]":
        "slices[0] takes nothing from the base_model",
    "merge_method: linear\nmodels: [{model: <a>, parameters: {wight: 1}}]":
        "models[0].parameters: unknown parameter of linear 'wight'; did you mean 'weight'?",
    "merge_method: linear\nmodels: [{model: <a>}]\nparameters: {weight: [{filter: mlp}]}":
        "a case is a mapping with filter and value, not {'filter': 'mlp'}",
    "merge_method: linear\nmodels: [{model: <a>}]\ndtype: bf16":
        "unknown dtype 'bf16'; did you mean 'bfloat16'?",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_wrong_is_told_why_in_one_sentence(text: str, models: Models, tmp_path: Path) -> None:
    file = written(text, models, tmp_path)
    with pytest.raises(ConfigError) as told:
        MergeSpec.from_yaml(file)
    assert str(told.value).startswith(f"{file}: ")
    assert WRONG[text] in str(told.value)


LATE = {
    "merge_method: linear\nmodels: [{model: <a>, parameters: {weight: [{filter: mlp, value: 1}]}}]":
        "has no weight; give it under parameters, of each model or of all",
    "merge_method: passthrough\nslices: [{sources: [{model: <a>, layer_range: [2, 6]}]}]":
        r"layer_range \[2, 6\] goes beyond the 4 layers of .*a$",
    "merge_method: linear\nparameters: {weight: 1}\nmodules: {text: {models: [{model: <a>}]}}":
        "modules.text means no tensor of",
    "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: <a>}, {model: <deep>}]":
        "num_hidden_layers is 6, not 4",
    "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: <a>}, {model: no/where}]":
        "no/where is not a folder",
}  # fmt: skip


@pytest.mark.parametrize("text", LATE)
def test_what_only_the_models_can_tell_stops_the_merge_before_it_begins(
    text: str, models: Models, tmp_path: Path
) -> None:
    spec = MergeSpec.from_yaml(written(text, models, tmp_path))
    with pytest.raises((ConfigError, MergeError, ValueError), match=LATE[text]):
        merge(spec, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["merge.yaml"]


def test_the_command_line_takes_the_file_and_exits_with_2_where_it_is_wrong(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(TIES, models, tmp_path))
    assert main(["merge", file, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/model.safetensors").is_file()
    written(TIES.replace("density: 0.3", "densty: 0.3"), models, tmp_path)
    assert main(["merge", file, "-o", str(tmp_path / "other")]) == 2
    assert "did you mean 'density'?" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_infinite_buffers_of_the_base_are_copied_by_every_method(
    base_of: Callable[[str], Path], experts_of: Callable[..., list[Path]], tmp_path: Path
) -> None:
    first, second = experts_of("gemma4")
    named = {"base": base_of("gemma4"), "a": first, "b": second}
    text = TIES.replace("ties", "linear").replace("density: 0.3", "weight: 1")
    report = merge(MergeSpec.from_yaml(written(text, named, tmp_path)), tmp_path / "out")
    assert report.copied == 80

"""Running a merge file with mergekit and with us on small random models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

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
    from mergekit.merge_methods.registry import registered_methods as registered_methods
    from mergekit.options import MergeOptions

#: float32 sums in another order.
ROUNDING = 1e-6
LAYERS = 4

Models = dict[str, Path]


def llama(layers: int = LAYERS, vocabulary: int = 96) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def llamas(folder: Path) -> Models:
    """Return a base and three models a little away from it, a deeper one, and the same in bfloat16."""
    torch.manual_seed(0)
    base = llama()
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
    llama(6).save_pretrained(found["deep"])
    return found


def written(text: str, models: Models, tmp_path: Path) -> Path:
    for name in sorted(models, key=len, reverse=True):
        text = text.replace(f"<{name}>", str(models[name]))
    file = tmp_path / "merge.yaml"
    file.write_text(text)
    return file


def theirs(file: Path, out: Path, **options: Any) -> dict[str, Tensor]:
    config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    run_merge(config, str(out), MergeOptions(quiet=True, write_model_card=False, **options))
    return tensors(out)


def tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def same(text: str, models: Models, tmp_path: Path, tolerance: float = ROUNDING, **options: Any) -> Path:
    """Run a file with mergekit and with us; compare names, shapes, types and values. Return our result."""
    file = written(text, models, tmp_path)
    expected = theirs(file, tmp_path / "theirs", **options)
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    found = tensors(tmp_path / "ours")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        difference = float((found[name].double() - value.double()).abs().max())
        assert difference <= tolerance, f"{name} differs by {difference:.2e}"
    return tmp_path / "ours"

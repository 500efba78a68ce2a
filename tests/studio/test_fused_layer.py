"""Decoder layers as one operation: the same losses and gradients as the layers' own code, in every case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studio import plugins
from studio.adapters import add_lora
from studio.families import family
from studio.training.allocator import keep_freed_memory
from studio.training.fast_paths import _layers
from studio.training.fused_layer import FusedLayers
from studio.training.loss import TokenLoss
from studio.training.matmul import FastProducts
from studio.training.packing import Packing

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)
#: Families whose language model has layers of this kind.
FUSED = {"granite_speech", "internvl", "llava", "mistral3", "qwen2_audio", "qwen_omni", "smolvlm", "voxtral"}

Questions = Callable[[str, int], list[Any]]


@pytest.fixture(autouse=True)
def long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed-forward parts of tiny models are as tiny as these, beside rows of genuine length."""
    monkeypatch.setattr("studio.training.fused_layer.SCORES", 1000)


def trained(name: str, folder: Path, questions: Questions, rows: int = 4) -> tuple[Any, Any]:
    """A family's tiny model with LoRA whose factors are no zeros, and rows of several lengths."""
    kind = family(name)
    model, processor = kind.load(folder, dtype=torch.float32)
    model = add_lora(model, kind, ["llm"], r=4, alpha=8.0)
    torch.manual_seed(0)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            parameter.data.normal_(std=0.1)
    items = [kind.encode(processor, row, True) for row in questions(name, rows)]
    return model, kind.collate(processor, items, "right")


def measured(
    model: nn.Module, batch: Any, loss: TokenLoss, rows: int = 4
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    value = loss(model, batch, [1.0 + row for row in range(rows)])
    value.backward()
    return value.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(expected: tuple[Tensor, dict[str, Tensor]], got: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=0)  # fp32, sums in another order
    assert got[1].keys() == expected[1].keys()
    whole = torch.stack([value.norm() for value in expected[1].values()]).norm()
    for path, value in expected[1].items():
        assert (got[1][path] - value).norm() <= 1e-5 * whole, path


@pytest.mark.parametrize("name", plugins.names("families"))
def test_every_family_learns_the_same(tiny: Callable[[str], Path], questions: Questions, name: str) -> None:
    model, batch = trained(name, tiny(name), questions)
    layers = _layers(model)
    loss = TokenLoss(model, torch.device("cpu"))
    expected = measured(model, batch, loss)
    fused = FusedLayers(layers)
    assert len(fused) == (len(layers) if name in FUSED else 0)
    same(expected, measured(model, batch, loss))
    loss.close()
    fused.close()
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize("learns", ["lora", "all", "norms"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_whatever_learns_gets_its_gradient(
    tiny: Callable[[str], Path], questions: Questions, monkeypatch: pytest.MonkeyPatch,
    learns: str, last: bool, packed: bool, keeps: bool,
) -> None:  # fmt: skip
    model, batch = trained("qwen_omni", tiny("qwen_omni"), questions)
    for path, parameter in model.named_parameters():
        if learns != "lora" and "language_model" in path:
            parameter.requires_grad_(learns == "all" or "norm" in path)
    layers = _layers(model)
    if packed:
        batch = Packing(model, lambda rows: batch).pack(batch)
    plain = TokenLoss(model, torch.device("cpu"))
    expected = measured(model, batch, plain)
    plain.close()
    if not keeps:
        monkeypatch.setattr("studio.training.fused_layer.KEPT", 0)
    FusedLayers(layers)
    calls = _calls(monkeypatch)
    loss = TokenLoss(model, torch.device("cpu"), last=layers[-1] if last else None)
    same(expected, measured(model, batch, loss))
    assert len(calls) == len(layers)
    assert [call[4] is None for call in calls] == [True] * (len(layers) - 1) + [not last]
    loss.close()
    same(expected, measured(model, batch, loss))


@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows_multiply_the_factors_one_by_one(
    tiny: Callable[[str], Path], questions: Questions, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    model, batch = trained("qwen2_audio", tiny("qwen2_audio"), questions, rows)
    loss = TokenLoss(model, torch.device("cpu"))
    expected = measured(model, batch, loss, rows)
    monkeypatch.setattr("studio.training.fused_linear.Projection.summed", lambda self, rows: (
        self._replace(whole=self.weight) if self.a is None else self
    ))  # fmt: skip
    FusedLayers(_layers(model))
    same(expected, measured(model, batch, loss, rows))


def test_what_the_formulas_do_not_say_is_left_to_the_layer(
    tiny: Callable[[str], Path], questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = trained("qwen2_audio", tiny("qwen2_audio"), questions)
    layers = _layers(model)
    FastProducts(model)
    FusedLayers(layers)
    calls = _calls(monkeypatch)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        model(**inputs, use_cache=False)
        assert len(calls) == len(layers)
        calls.clear()
        model(**inputs, use_cache=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**inputs, use_cache=False)
        hook = layers[0].mlp.gate_proj.register_forward_hook(lambda *_: None)
        model(**inputs, use_cache=False)
        assert len(calls) == len(layers) - 1
        hook.remove()
        with model.disable_adapter():
            off = model(**inputs, use_cache=False).logits
        assert not torch.allclose(off, model(**inputs, use_cache=False).logits)
    monkeypatch.setattr("studio.training.fused_layer.SCORES", 0)  # rows are too long
    calls.clear()
    model(**inputs, use_cache=False)
    assert not calls
    monkeypatch.setattr("studio.training.fused_layer.SCORES", 1000)
    model.train()
    model.activation_checkpointing_enable()
    calls.clear()
    model(**inputs, use_cache=False)
    assert not calls


def test_a_layer_that_scales_what_it_adds_is_of_another_kind(tiny: Callable[[str], Path]) -> None:
    kind = family("granite_speech")
    model, _ = kind.load(tiny("granite_speech"), dtype=torch.float32)
    layers = _layers(model)
    layers[0].residual_multiplier = 0.22
    assert len(FusedLayers(layers)) == len(layers) - 1


def test_freed_memory_is_kept_where_the_allocator_takes_orders() -> None:
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Any]]:
    """The calls of the one operation, as they are made."""
    from studio.training import fused_layer

    made: list[Sequence[Any]] = []
    own = fused_layer.decoder_layer

    def told(*args: Any) -> Tensor:
        made.append(args)
        return own(*args)

    monkeypatch.setattr(fused_layer, "decoder_layer", told)
    return made

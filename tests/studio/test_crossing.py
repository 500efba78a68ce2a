"""Cross-attention of few queries: the same loss and gradients, and its own way wherever it does not suit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from studio.families import family
from studio.training import crossing
from studio.training.crossing import ShortQueries
from studio.training.loss import TokenLoss

TARGETS = r".*encoder_attn\.(q_proj|k_proj|v_proj|out_proj)"


@pytest.fixture
def whisper(tiny: Callable[[str], Path]) -> Any:
    return family("whisper").load(tiny("whisper")).model


def adapted(model: Any, **more: Any) -> Any:
    """Return the model with LoRA on its cross-attentions, as after some steps of training."""
    made = get_peft_model(model, LoraConfig(r=2, target_modules=TARGETS, **more))
    draw = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=draw)
    return made


def batch(length: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 200, (3, length), generator=draw)
    return {
        "input_features": torch.randn(3, 80, 3000, generator=draw),
        "decoder_input_ids": ids,
        "decoder_attention_mask": torch.ones_like(ids),
        "labels": ids.roll(-1, 1),
    }


def measured(model: Any, length: int) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = TokenLoss(model, torch.device("cpu"))
    torch.manual_seed(0)
    value = loss(model, batch(length), [1.0] * 3)
    value.backward()
    loss.close()
    return float(value.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def used(model: Any, monkeypatch: pytest.MonkeyPatch, length: int = 9) -> bool:
    """Return whether some attention took the short way; loss and gradients are compared with the plain."""
    loss, gradients = measured(model, length)
    fast = ShortQueries(model)
    assert len(fast) == 2
    short: list[int] = []
    plain = torch.einsum
    monkeypatch.setattr(crossing.torch, "einsum", lambda *given: short.append(1) or plain(*given))
    found, again = measured(model, length)
    monkeypatch.undo()
    fast.close()
    assert found == pytest.approx(loss, rel=1e-6)
    assert again.keys() == gradients.keys()
    for name, gradient in gradients.items():
        # fp32 sums over 1,500 states in another order; the largest gradients are about 10.
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-4, msg=name)
    assert measured(model, length)[0] == loss
    return bool(short)


def test_lora_on_every_projection_learns_the_same(whisper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert used(adapted(whisper), monkeypatch)


def test_full_training_learns_the_same_and_so_does_the_encoder(
    whisper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert used(whisper, monkeypatch)


def test_as_many_queries_as_a_head_has_channels_take_the_plain_way(
    whisper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert used(whisper, monkeypatch, length=15)
    assert not used(whisper, monkeypatch, length=16)


@pytest.mark.parametrize(
    "more", [{"use_dora": True}, {"lora_dropout": 0.3}, {"use_rslora": True, "lora_dropout": 0.1}]
)
def test_adapters_that_do_more_than_add_a_product_take_the_plain_way(
    more: dict[str, Any], whisper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not used(adapted(whisper, **more).train(), monkeypatch)


def test_generation_is_as_before(whisper: Any) -> None:
    features = batch(4)["input_features"]
    settings = {"max_new_tokens": 6, "do_sample": False, "language": "en", "task": "transcribe"}
    before = whisper.generate(features, **settings)
    fast = ShortQueries(whisper)
    assert torch.equal(whisper.generate(features, **settings), before)
    fast.close()

"""The loss in parts: equal to the model's own in every family, whatever stands behind its head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import plugins
from studio.adapters import add_lora
from studio.families import family
from studio.training.chunked import ChunkedLoss
from studio.training.loss import IGNORE, TokenLoss
from tests.studio.gradients import assert_same, gradients

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]
CPU = torch.device("cpu")
FEW = 2000  # logits at a time: two or three tokens of the tiny models


def loaded(name: str, tiny: Tiny, questions: Questions, rows: int = 4) -> tuple[Any, Any]:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions(name, rows)]
    return model, kind.collate(processor, items, "right")


@pytest.mark.parametrize("name", plugins.names("families"))
def test_in_parts_it_is_the_model_s_own_loss(
    tiny: Tiny, questions: Questions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = loaded(name, tiny, questions)
    sizes: list[int] = []
    whole_part = ChunkedLoss.part

    def counted(self: ChunkedLoss, *args: Tensor) -> Tensor:
        sizes.append(len(args[0]))
        return whole_part(self, *args)

    monkeypatch.setattr(ChunkedLoss, "part", counted)
    whole = model(**batch).loss
    labels = batch["labels"] if "decoder_input_ids" in batch else batch["labels"][:, 1:]
    count = int((labels != IGNORE).sum())
    expected = gradients(model, whole * count)
    loss = TokenLoss(model, CPU, most=FEW)
    for _ in range(2):  # the first time it proves itself, then it is believed
        ours = loss(model, batch, [1.0] * 4)
        assert ours.item() / count == pytest.approx(whole.item(), rel=1e-6)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    most = max(1, FEW // vocabulary)
    assert sum(sizes) == 2 * count + 1
    assert max(sizes) <= most
    assert_same(gradients(model, ours), expected)
    with torch.no_grad():
        assert loss(model, batch, [1.0] * 4).item() == pytest.approx(ours.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}), ("Granite", {"logits_scaling": 4.0})],
)
def test_what_stands_behind_the_head_is_done_to_the_parts(kind: str, settings: dict[str, float]) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=400, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=1.0, **settings,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    ids = torch.randint(3, 400, (4, 9))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    expected = model(**batch).loss * 4 * 8
    loss = TokenLoss(model, CPU, most=FEW)
    ours = loss(model, batch, [1.0] * 4)
    assert loss._proven
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_same(gradients(model, ours), gradients(model, expected))


def test_a_head_with_another_tail_than_its_configuration_says_is_computed_whole(
    tiny: Tiny, questions: Questions
) -> None:
    model, batch = loaded("qwen_omni", tiny, questions)
    expected = TokenLoss(model, CPU, most=0)(model, batch, [1.0] * 4)
    model.config.get_text_config().final_logit_softcapping = 1.0  # which this model does not know
    loss = TokenLoss(model, CPU, most=FEW)
    assert loss(model, batch, [1.0] * 4).item() == pytest.approx(expected.item(), rel=1e-6)
    assert_same(gradients(model, loss(model, batch, [1.0] * 4)), gradients(model, expected))


def test_lora_on_the_head_learns_the_same_in_parts(tiny: Tiny, questions: Questions) -> None:
    import dataclasses

    kind = family("smolvlm")
    model, batch = loaded("smolvlm", tiny, questions)
    kind = dataclasses.replace(kind, lora_targets={"llm": kind.lora_targets["llm"] + "|lm_head"})
    model = add_lora(model, kind, ["llm"], r=4, alpha=8)
    weights = [2.0, 0.0, 0.5, 1.0]
    expected = gradients(model, TokenLoss(model, CPU, most=0)(model, batch, weights))
    assert any("lm_head" in path for path in expected)
    assert_same(gradients(model, TokenLoss(model, CPU, most=FEW)(model, batch, weights)), expected)


def test_a_frozen_head_passes_the_gradient_on(tiny: Tiny, questions: Questions) -> None:
    model, batch = loaded("qwen_omni", tiny, questions)
    model = add_lora(model, family("qwen_omni"), ["llm"], r=4, alpha=8)
    expected = gradients(model, TokenLoss(model, CPU, most=0)(model, batch, [1.0] * 4) / 7)
    assert_same(gradients(model, TokenLoss(model, CPU, most=FEW)(model, batch, [1.0] * 4) / 7), expected)


def test_in_bf16_parts_and_whole_agree_to_its_digits(tiny: Tiny, questions: Questions) -> None:
    model, batch = loaded("qwen_omni", tiny, questions)
    whole, parts = (
        TokenLoss(model, CPU, torch.bfloat16, most=most)(model, batch, [1.0] * 4) for most in (0, FEW)
    )
    assert parts.dtype == torch.float32
    assert parts.item() == pytest.approx(whole.item(), rel=1e-2)


def test_memory_stays_below_that_of_all_logits() -> None:
    """Of 512 tokens over 20,000 words, no tensor as large as all logits is ever made."""
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20_000, bias=False)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, made.numel() if isinstance(made, Tensor) else 0)
            return made

    class Config:
        vocab_size = 20_000

        def get_text_config(self) -> Config:
            return self

    hidden, targets = torch.randn(512, 8, requires_grad=True), torch.randint(0, 20_000, (512,))
    with Watch():
        ChunkedLoss(head, Config(), most=1_000_000)(hidden, targets, torch.ones(512)).backward()
    assert largest == 1_000_000

"""QLoRA on any machine: what is rounded, that it learns, and that its adapter is baked into what it saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mergers import bake
from mergers._quantised import Values
from studio.adapters import save_adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError
from studio.families import family
from studio.quantise import KINDS, check_quantise, quantise
from studio.training.loss import TokenLoss, compute_type
from studio.training.towers import choose_trainable, in_fp32, tower_of, tower_rules
from studio.types import Sample

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Sample]]
pytest.importorskip("bitsandbytes")


def _batch(name: str, processor: Any, questions: Questions) -> Any:
    kind = family(name)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 3)]
    return kind.collate(processor, items, "right")


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("name", ["qwen_omni", pytest.param("whisper", marks=pytest.mark.slow)])
def test_an_adapter_on_a_rounded_model_learns_and_is_baked_into_what_it_saw(
    name: str, bits: str, tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    kind, folder = family(name), tiny(name)
    model, processor = kind.load(folder)
    batch = _batch(name, processor, questions)
    head = model.get_output_embeddings()
    model = quantise(model, kind, bits, compute=torch.float32)
    rounded = {
        path for path, part in model.named_modules() if type(part).__module__.startswith("bitsandbytes")
    }
    assert rounded
    assert all(tower_of(path, kind) == "llm" for path in rounded)
    for path, part in kind.load(folder).model.named_modules():  # rows of whole blocks, in 4 bits
        if path in rounded and bits != "int8":
            assert part.in_features % 64 == 0
    assert model.get_output_embeddings() is head
    assert type(head) is torch.nn.Linear

    rules = tower_rules(kind, "lora", {tower: "lora" for tower in kind.lora_targets})
    model = choose_trainable(model, kind, rules, r=4, alpha=8, seed=0)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.005, weight_decay=0.0)
    loss, losses = TokenLoss(model, torch.device("cpu")), []
    for _ in range(6):
        value = loss(model, batch, [1.0] * 3) / 20
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(value.item())
    loss.close()
    assert losses[-1] < losses[0]

    save_adapter(model, tmp_path / "adapter", base=folder, family=kind)
    bake(tmp_path / "adapter", tmp_path / "baked")  # the adapter's note says how its base was rounded
    values = Values(checkpoint=Checkpoint(folder))
    base = Checkpoint(tmp_path / "baked-base")
    changed = {n for n in base.names() if not torch.equal(base.read(n), values.checkpoint.read(n))}
    assert len(changed) == len(rounded)
    whole = kind.load(tmp_path / "baked").model
    with torch.no_grad():
        seen, baked, plain = (each.eval()(**batch).logits for each in (model, whole, kind.load(folder).model))
    # int8 also rounds what goes into a layer, and bf16 or fp32 sums come in another order.
    near = float((baked - seen).norm() / seen.norm())
    assert near < (2e-2 if bits == "int8" else 1e-5)
    assert float((plain - seen).norm() / seen.norm()) > 5 * near


def test_what_cannot_learn_in_fewer_bits_is_refused_before_anything_is_loaded() -> None:
    kind = family("qwen_omni")
    for method, asked, sentence in (
        ("full", {}, "cannot have the rule full"),
        ("bitfit", {}, "cannot have the rule bitfit"),
        ("pissa", {}, "method=pissa takes the base apart"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_quantise("nf4", method, tower_rules(kind, method, asked))
        check_quantise("bf16", method, tower_rules(kind, method, asked))
    check_quantise("int8", "dora", tower_rules(kind, "dora", {"vision": "full"}))
    assert compute_type("nf4", torch.device("cpu")) == torch.float32


def test_the_state_of_a_rounded_model_s_adapter_stays_in_fp32(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    model = quantise(kind.load(tiny("qwen_omni")).model, kind, "nf4", compute=torch.bfloat16)
    model = choose_trainable(model, kind, tower_rules(kind, "lora", {}), seed=0)
    in_fp32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}

"""Towers one by one: rules, rates, types, checkpointing, noise and biases, by the object tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.adapters import load_adapter, save_adapter
from studio.errors import ConfigError
from studio.families import family
from studio.training.checkpointing import checkpoint_towers
from studio.training.learning import learning_table, table_lines
from studio.training.loss import TokenLoss
from studio.training.noise import TextNoise, media_ids
from studio.training.towers import (
    choose_trainable,
    own_path,
    parameter_groups,
    set_rates,
    tower_of,
    tower_rules,
    train_mode,
)
from studio.types import Sample

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Sample]]
ASKED: dict[str, Any] = {
    "vision": "frozen", "audio": {"lora": {"r": 2}, "lr": 5e-5}, "projector": "full",
    "llm": {"lora": {"r": 3, "alpha": 6, "dropout": 0.1}},
}  # fmt: skip


def _batch(name: str, processor: Any, questions: Questions) -> Any:
    kind = family(name)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 4)]
    return kind.collate(processor, items, "right")


def _gradients(model: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    loss = TokenLoss(model, torch.device("cpu"))
    torch.manual_seed(0)
    value = loss(model, batch, [1.0] * 4)
    value.backward()
    loss.close()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return value.item(), found


def test_every_tower_learns_as_its_rule_says_and_the_table_tells_it(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    rules = tower_rules(kind, "lora", ASKED)
    model = choose_trainable(kind.load(tiny("qwen_omni")).model, kind, rules, seed=0)
    table = learning_table(model, kind, rules, method="lora", lr=2e-4)
    assert {tower: row["rule"] for tower, row in table.items()} == {
        "vision": "frozen", "audio": "lora", "projector": "full", "llm": "lora",
    }  # fmt: skip
    assert [table[tower]["lr"] for tower in ("vision", "audio", "llm")] == [None, 5e-5, 2e-4]
    counted: dict[str | None, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tower = tower_of(own_path(name), kind)
            counted[tower] = counted.get(tower, 0) + parameter.numel()
    assert {tower: row["learning"] for tower, row in table.items() if row["learning"]} == counted
    # Two layers of seven matrices each; the projector's are two of the vision tower's and the audio's one.
    assert table["llm"]["modules"] == 14
    assert table["vision"]["modules"] == 0
    lines = table_lines(table)
    assert [line.split()[:2] for line in lines] == [
        ["tower", "rule"], ["vision", "frozen"], ["audio", "lora"], ["projector", "full"], ["llm", "lora"],
    ]  # fmt: skip
    assert f"{counted['llm']:,}" in lines[4]


def test_towers_and_lora_s_second_factor_have_rates_of_their_own(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    rules = tower_rules(kind, "lora", ASKED)
    model = choose_trainable(kind.load(tiny("qwen_omni")).model, kind, rules, seed=0)
    groups = parameter_groups(model, 0.1, lr=2e-4, loraplus=16, family=kind, rules=rules)
    optimiser = torch.optim.AdamW(groups, lr=2e-4)
    set_rates(optimiser, 1e-4)  # half of its peak
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            wanted = 2.5e-5 if tower_of(own_path(name), kind) == "audio" else 1e-4
            assert rates.pop(id(parameter)) == pytest.approx(wanted * (16 if "lora_B" in name else 1)), name
    assert not rates
    # A ratio of 1 is AdamW as it was: one rate, the same steps.
    assert {group["times"] for group in parameter_groups(model, 0.0)} == {1.0}


@pytest.mark.parametrize(
    ("method", "asked", "sentence"),
    [
        ("lora", {"llm": "loar"}, r"towers.llm: unknown rule 'loar'; did you mean 'lora'"),
        ("lora", {"llm": {"lora": {"rank": 3}}}, "towers.llm: unknown LoRA setting 'rank'"),
        ("lora", {"llm": {"lora": {"r": 0}}}, "towers.llm.lora.r cannot be 0"),
        ("lora", {"llm": {"lora": {}, "full": {}}}, "towers.llm: one rule a tower"),
        ("lora", {"vision": {"rule": "frozen", "lr": 1e-4}}, "a frozen tower has no lr"),
        ("lora", {"llm": {"lr": -1}}, "towers.llm.lr must be more than 0"),
        ("lora", {"vision": {"precision": "fp8"}}, "unknown precision 'fp8'"),
        ("full", {"vision": {"precision": "bf16"}}, "what learns is kept in fp32"),
        ("lora", {"vision": "dora"}, "one method a run, and this one's is lora; use method=dora"),
        ("full", {"vision": "bitfit"}, "bitfit stands beside lora or alone"),
        ("ia3", {"vision": "bitfit"}, "bitfit stands beside lora or alone"),
        ("ia3", {"llm": {"ia3": {"r": 3}}}, "method=ia3 has no r"),
        ("bitfit", {"vision": "lora"}, "method=bitfit adapts no tower"),
        ("lora", {"llm": "frozen"}, "every tower is frozen, so nothing would learn"),
    ],
)
def test_rules_that_cannot_be_are_one_sentence(method: str, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tower_rules(family("qwen_omni"), method, asked)


def test_bitfit_trains_and_stores_the_biases_of_its_towers_alone(
    tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    kind, folder = family("qwen_omni"), tiny("qwen_omni")
    model, processor = kind.load(folder)
    batch = _batch("qwen_omni", processor, questions)
    model = choose_trainable(model, kind, tower_rules(kind, "bitfit", {}), method="bitfit", seed=0)
    learning = {own_path(n): p for n, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all(n.endswith("bias") and tower_of(n, kind) == "llm" for n in learning)
    with torch.no_grad():
        for parameter in learning.values():
            parameter += 0.1
    wanted = model.eval()(**batch).logits
    save_adapter(model, tmp_path / "adapter", base=folder, family=kind)
    again = load_adapter(kind.load(folder).model, tmp_path / "adapter").eval()
    torch.testing.assert_close(again(**batch).logits, wanted, rtol=0, atol=0)
    other = family("smolvlm")
    with pytest.raises(ConfigError, match="'llm' has no biases in this model"):
        choose_trainable(
            other.load(tiny("smolvlm")).model,
            other,
            tower_rules(other, "bitfit", {}),
            method="bitfit",
            seed=0,
        )


def test_bitfit_beside_lora_stays_in_its_tower(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    rules = tower_rules(kind, "lora", {"vision": "bitfit", "projector": "full"})
    model = choose_trainable(kind.load(tiny("qwen_omni")).model, kind, rules, seed=0)
    kinds: dict[str | None, set[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            what = "lora" if "lora_" in name else name.rpartition(".")[2]
            kinds.setdefault(tower_of(own_path(name), kind), set()).add(what)
    assert kinds == {"vision": {"bias"}, "llm": {"lora"}, "projector": {"weight", "bias"}}


@pytest.mark.parametrize("name", ["qwen_omni", "whisper", pytest.param("smolvlm", marks=pytest.mark.slow)])
def test_a_frozen_tower_in_bf16_works_beside_an_fp32_model(
    name: str, tiny: Tiny, questions: Questions
) -> None:
    kind = family(name)
    exact, processor = kind.load(tiny(name))
    batch = _batch(name, processor, questions)
    towers = [tower for tower in kind.towers if tower != "llm" and tower != "projector"]
    rules = tower_rules(kind, "lora", {tower: {"precision": "bf16"} for tower in towers})
    model = choose_trainable(kind.load(tiny(name)).model, kind, rules, seed=0)
    held = {}
    for path, parameter in model.named_parameters():
        held.setdefault(tower_of(own_path(path), kind), set()).add(parameter.dtype)
    assert all(held[tower] == {torch.bfloat16} for tower in towers)
    assert all(held[tower] == {torch.float32} for tower in set(held) - set(towers))
    with torch.no_grad():
        rough, close = model.eval()(**batch).logits, exact(**batch).logits
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, close)
    assert float((rough - close).norm() / close.norm()) < 0.02  # bf16 keeps 8 bits
    assert learning_table(model, kind, rules, method="lora", lr=1.0)[towers[0]]["weights"] == "bfloat16"


@pytest.mark.parametrize("name", ["qwen_omni", "whisper"])
def test_checkpointed_towers_give_the_same_losses_and_gradients(
    name: str, tiny: Tiny, questions: Questions
) -> None:
    kind = family(name)
    asked = {tower: {"lora": {"dropout": 0.2}} for tower in kind.lora_targets}
    asked["audio"]["checkpointing"] = True
    rules = tower_rules(kind, "lora", asked)
    found = []
    for count in (0, 1, 2):
        model, processor = kind.load(tiny(name))
        model = choose_trainable(model, kind, rules, r=4, alpha=8, seed=0)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if "lora_B" in path:
                    parameter.fill_(0.02)
        layers = checkpoint_towers(model, kind, rules, usual=count == 2) if count else {}
        assert set(layers) == ({"audio"} if count == 1 else set(layers))
        assert count < 2 or {"audio", "llm"} <= set(layers)
        train_mode(model)
        found.append(_gradients(model, _batch(name, processor, questions)))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert gradients.keys() == found[0][1].keys()
        for path, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][path], rtol=1e-6, atol=1e-7)


def test_a_tower_without_layers_cannot_be_checkpointed_by_name(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    rules = tower_rules(kind, "lora", {"projector": {"checkpointing": True}})
    with pytest.raises(ConfigError, match=r"towers\.projector\.checkpointing: .* has no layers there"):
        checkpoint_towers(kind.load(tiny("qwen_omni")).model, kind, rules)


def test_noise_falls_on_text_alone_and_only_in_training(tiny: Tiny, questions: Questions) -> None:
    kind = family("qwen_omni")
    model, processor = kind.load(tiny("qwen_omni"))
    batch = _batch("qwen_omni", processor, questions)
    ids = batch["input_ids"]
    media = torch.isin(ids, torch.tensor(sorted(media_ids(model.config))))
    assert media.any()
    embedding = model.get_input_embeddings()
    plain = embedding(ids).detach()
    noise = TextNoise(model, 5.0)
    assert torch.equal(embedding(ids), plain)  # evaluation
    model.train()
    torch.manual_seed(0)
    noisy = embedding(ids)
    apart = (noisy - plain).detach().abs()
    assert not apart[media].any()
    for row in range(len(ids)):
        most = 5.0 / ((~media[row]).sum() * plain.shape[-1]) ** 0.5
        assert 0.8 * most < float(apart[row].max()) <= most + 1e-6
    noise.close()
    assert torch.equal(embedding(ids), plain)

"""The parts of a training loop: order, schedule, seeds, loss, towers, state."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio import plugins
from studio.errors import CheckpointError, ConfigError
from studio.families import family
from studio.training.batches import epoch_batches, micro_batches, steps_per_epoch
from studio.training.interrupt import Interrupt
from studio.training.loss import TokenLoss, compute_type
from studio.training.save import Progress, load_state, read_progress, save_state
from studio.training.schedule import factor, warmup_steps
from studio.training.seed import set_seed
from studio.training.threads import physical_cores, set_threads
from studio.training.towers import choose_trainable, parameter_groups, tower_of, tower_rules, train_mode

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "seed": 0}
lengths = st.lists(st.integers(1, 500), min_size=1, max_size=120)


@given(lengths, st.integers(1, 17), st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(tokens: list[int], size: int, epoch: int) -> None:
    batches = epoch_batches(tokens, size, seed=3, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tokens)))
    assert len(batches) == steps_per_epoch(len(tokens), size)
    assert all(1 <= len(batch) <= size for batch in batches)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    tokens = [5 + index % 7 for index in range(64)]
    torch.manual_seed(1)
    first = epoch_batches(tokens, 4, seed=0, epoch=0)
    torch.manual_seed(2)
    assert epoch_batches(tokens, 4, seed=0, epoch=0) == first
    assert epoch_batches(tokens, 4, seed=0, epoch=1) != first
    assert epoch_batches(tokens, 4, seed=1, epoch=0) != first


def test_sorting_by_length_saves_most_of_the_padding() -> None:
    draw = random.Random(0)
    tokens = [draw.randint(10, 200) for _ in range(1000)]

    def padding(batches: list[list[int]]) -> int:
        return sum(max(tokens[i] for i in b) * len(b) - sum(tokens[i] for i in b) for b in batches)

    shuffled = draw.sample(range(1000), 1000)
    plain = [shuffled[at : at + 8] for at in range(0, 1000, 8)]
    assert padding(epoch_batches(tokens, 8, seed=0, epoch=0)) < 0.1 * padding(plain)


@given(lengths, st.integers(1, 9), st.integers(1, 4))
def test_processes_share_a_batch_without_loss_and_in_equal_numbers(
    tokens: list[int], size: int, world: int
) -> None:
    batch = list(range(len(tokens)))
    shares = [micro_batches(batch, tokens, size, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for part in share for i in part) == batch
    assert all(len(part) <= size for share in shares for part in share)


@given(st.integers(1, 300), st.floats(0, 50), st.sampled_from(["cosine", "linear", "constant"]))
def test_learning_rate_rises_to_its_peak_and_never_after(total: int, warmup: float, kind: Any) -> None:
    steps = warmup_steps(warmup, total)
    values = [factor(step, total, steps, kind) for step in range(total)]
    assert all(0 < value <= 1 for value in values)
    assert values[:steps] == sorted(values[:steps])
    assert values[steps:] == sorted(values[steps:], reverse=True)
    assert max(values) == 1


def test_schedules_are_the_textbook_curves() -> None:
    assert [factor(s, 12, 2, "cosine") for s in (0, 1, 2, 7)] == pytest.approx([0.5, 1, 1, 0.5])
    assert [factor(s, 12, 2, "linear") for s in (2, 7, 11)] == pytest.approx([1, 0.5, 0.1])
    assert warmup_steps(0.05, 200) == 10
    assert warmup_steps(30, 200) == 30
    assert warmup_steps(500, 200) == 200


def test_a_place_in_the_run_gives_the_same_numbers_from_all_three_generators() -> None:
    def draw(*place: int | str) -> tuple[float, float, float]:
        set_seed(0, *place)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw("step", 3, 0)
    assert draw("step", 3, 0) == first
    assert not set(draw("step", 3, 1)) & set(first)
    assert not set(draw("step", 4, 0)) & set(first)


def test_threads_are_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= physical_cores() <= allowed
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert set_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert set_threads() == physical_cores() == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_the_first_interrupt_is_noted_and_a_later_one_ends() -> None:
    old = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        os.kill(os.getpid(), signal.SIGTERM)  # the same request, passed on by whoever started this process
        time.sleep(1.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is old


Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]


@pytest.mark.parametrize("name", plugins.names("families"))
def test_loss_equals_the_model_s_own_loss(tiny: Tiny, questions: Questions, name: str) -> None:
    """Parity with transformers: the hook that drops unsupervised positions changes nothing."""
    kind = family(name)
    model, processor = kind.load(tiny(name))
    items = [kind.encode(processor, sample, True) for sample in questions(name, 4)]
    batch = kind.collate(processor, items, "right")
    count = sum(int((item["labels"] != -100).sum()) for item in items)
    whole = model(**batch)
    loss = TokenLoss(model, torch.device("cpu"))
    ours = loss(model, batch, [1.0] * 4)
    assert (ours / count).item() == pytest.approx(whole.loss.item(), rel=1e-5)  # fp32, another order of sums
    ours.backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (whole.loss * count).backward()
    for path, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[path], parameter.grad, rtol=1e-3, atol=1e-4 * count)
    # Outside of a loss the model is as it was, and after `close` it carries no hook.
    assert model(**batch).logits.shape == whole.logits.shape
    loss.close()
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_loss_weighs_samples(tiny: Tiny, questions: Questions) -> None:
    kind = family("qwen_omni")
    model, processor = kind.load(tiny("qwen_omni"))
    items = [kind.encode(processor, sample, True) for sample in questions("qwen_omni", 3)]
    loss = TokenLoss(model, torch.device("cpu"))
    with torch.no_grad():
        each = [loss(model, kind.collate(processor, [item], "right"), [1.0]).item() for item in items]
        both = loss(model, kind.collate(processor, items, "right"), [2.0, 0.0, 0.5]).item()
    assert both == pytest.approx(2 * each[0] + 0.5 * each[2], rel=1e-5)


def test_bf16_is_computed_in_when_asked_for(tiny: Tiny, questions: Questions) -> None:
    assert compute_type("auto", torch.device("cpu")) == torch.float32
    assert compute_type("bf16", torch.device("cpu")) == torch.bfloat16
    kind = family("qwen_omni")
    model, processor = kind.load(tiny("qwen_omni"))
    items = [kind.encode(processor, sample, True) for sample in questions("qwen_omni", 3)]
    batch = kind.collate(processor, items, "right")
    with torch.no_grad():
        exact = TokenLoss(model, torch.device("cpu"))(model, batch, [1.0] * 3)
        rough = TokenLoss(model, torch.device("cpu"), torch.bfloat16)(model, batch, [1.0] * 3)
    assert rough.dtype == torch.float32
    assert exact.item() != rough.item()
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)  # bf16 keeps 8 bits


def test_tower_rules_fill_in_the_method_s_default() -> None:
    kind = family("qwen_omni")
    assert {tower: rule.kind for tower, rule in tower_rules(kind, "lora", {}).items()} == {
        "vision": "frozen", "audio": "frozen", "projector": "frozen", "llm": "lora",
    }  # fmt: skip
    assert tower_rules(kind, "lora", {"vision": "lora"})["vision"].kind == "lora"
    assert {rule.kind for rule in tower_rules(kind, "full", {}).values()} == {"full"}
    assert tower_rules(kind, "full", {"audio": "frozen"})["audio"].kind == "frozen"


@pytest.mark.parametrize(
    ("method", "asked", "sentence"),
    [
        ("lora", {"visoin": "lora"}, "unknown tower 'visoin'; did you mean 'vision'"),
        ("full", {"llm": "lora"}, "use method=lora"),
        ("lora", {"llm": "frozen", "vision": "full"}, "at least one tower with the rule 'lora'"),
        ("full", dict.fromkeys(("vision", "audio", "projector", "llm"), "frozen"), "every tower is frozen"),
    ],
)
def test_tower_rules_that_cannot_be_are_refused(method: Any, asked: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tower_rules(family("qwen_omni"), method, asked)


def test_longest_prefix_decides_the_tower() -> None:
    kind = family("qwen_omni")
    assert tower_of("model.visual.blocks.0.attn.q", kind) == "vision"
    assert tower_of("model.visual.merger.mlp.0", kind) == "projector"
    assert tower_of("model.visual_other", kind) is None


def test_exactly_the_chosen_towers_learn(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    asked: Any = {"audio": "lora", "projector": "full"}
    model, _ = kind.load(tiny("qwen_omni"))
    model = choose_trainable(model, kind, tower_rules(kind, "lora", asked), **LORA)
    learning = {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}
    towers: dict[str | None, set[bool]] = {}
    for name in learning:
        towers.setdefault(tower_of(name, kind), set()).add("lora_" in name)
    assert towers == {"audio": {True}, "llm": {True}, "projector": {False}}


def test_full_training_leaves_frozen_towers_alone(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    model, _ = kind.load(tiny("qwen_omni"))
    choose_trainable(model, kind, tower_rules(kind, "full", {"vision": "frozen"}), **LORA)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (tower_of(name, kind) != "vision"), name


def test_parts_in_which_nothing_learns_are_not_in_training_mode(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    model, _ = kind.load(tiny("qwen_omni"))
    model = choose_trainable(model, kind, tower_rules(kind, "lora", {}), **LORA)
    train_mode(model)
    inner = model.get_base_model().model
    assert not any(part.training for part in inner.visual.modules())
    assert not any(part.training for part in inner.audio_tower.modules())
    assert inner.language_model.layers[0].self_attn.training


def test_weights_learn_in_fp32_on_a_bf16_base(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    model, _ = kind.load(tiny("qwen_omni"), dtype=torch.bfloat16)
    model = choose_trainable(model, kind, tower_rules(kind, "lora", {"projector": "full"}), **LORA)
    types = {p.requires_grad: set() for p in model.parameters()}
    for parameter in model.parameters():
        types[parameter.requires_grad].add(parameter.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}


def test_a_tied_tower_is_not_trained_in_full_beside_lora(tiny: Tiny) -> None:
    """Stored beside LoRA, the embedding and the head would become two tensors."""
    kind = family("qwen_omni")
    model, _ = kind.load(tiny("qwen_omni"))
    rules = tower_rules(kind, "lora", {"llm": "full", "vision": "lora"})
    with pytest.raises(ConfigError, match=r"'llm' cannot be trained in full .* is tied to 'lm_head\.weight'"):
        choose_trainable(model, kind, rules, **LORA)


def test_a_tower_that_the_model_does_not_have_is_an_error(tiny: Tiny) -> None:
    kind = family("qwen_omni")
    model, _ = kind.load(tiny("qwen_omni"))
    del model.model.audio_tower
    with pytest.raises(ConfigError, match="'audio' matches no parameter of Qwen2_5OmniThinker"):
        choose_trainable(model, kind, tower_rules(kind, "lora", {"audio": "full"}), **LORA)


def _small(width: int = 3) -> tuple[torch.nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(width, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    model[2].weight.requires_grad_(False)
    return model, torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.01, fused=True)


def _steps(model: torch.nn.Module, optimiser: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        set_seed(0, step)
        loss = (model(torch.randn(5, 3)) - 1).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def test_weight_decay_is_for_matrices_only() -> None:
    model, optimiser = _small()
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay[id(model[0].weight)] == 0.1
    assert decay[id(model[0].bias)] == decay[id(model[1].weight)] == 0
    assert id(model[2].weight) not in decay


def test_saved_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimiser = _small()
    whole = _steps(model, optimiser, 0, 8)
    model, optimiser = _small()
    _steps(model, optimiser, 0, 3)
    save_state(tmp_path / "last", model, optimiser, Progress(step=3, best=0.5, best_step=2, seconds=1.5))
    model, optimiser = _small()
    assert read_progress(tmp_path / "last") == Progress(step=3, best=0.5, best_step=2, seconds=1.5)
    load_state(tmp_path / "last", model, optimiser)
    assert _steps(model, optimiser, 3, 8) == whole[3:]
    assert not [
        file for file in (tmp_path / "last").iterdir() if file.suffix not in (".json", ".safetensors")
    ]


def test_state_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    model, optimiser = _small()
    _steps(model, optimiser, 0, 1)
    save_state(tmp_path, model, optimiser, Progress(step=1))
    with pytest.raises(CheckpointError, match="other weights than this run trains"):
        load_state(tmp_path, *_small(width=5))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read"):
        load_state(tmp_path, *_small())
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not the state of a run"):
        read_progress(tmp_path)
    assert read_progress(tmp_path / "nowhere") is None


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_warmup_of_a_share_is_rounded_up(total: int) -> None:
    assert warmup_steps(0.05, total) == math.ceil(0.05 * total)

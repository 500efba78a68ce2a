"""Losses of preferences against values by hand, finite differences and trl; and rows as pairs."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.assets import find_model
from studio.training.loss import TokenLoss
from studio.training.preference import KINDS, Answers, Preference, dpo, ipo, kto, likelihood, orpo, simpo

SETTINGS = Preference()


def answers(log_prob: list[float], tokens: list[int], reference: list[float] | None = None) -> Answers:
    return Answers(
        log_prob=torch.tensor(log_prob, dtype=torch.float64),
        tokens=torch.tensor(tokens),
        reference=torch.tensor(reference or [0.0] * len(tokens), dtype=torch.float64),
    )


CHOSEN = answers([-4.0, -9.0], [4, 6], [-5.0, -8.0])
REJECTED = answers([-6.0, -3.0], [3, 2], [-5.5, -4.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(found: Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=1e-9, atol=1e-9)


def test_dpo_is_equation_7_by_hand() -> None:
    # Log ratios: chosen 1 and -1, rejected -0.5 and 1; their differences 1.5 and -2.
    close(dpo(CHOSEN, REJECTED, 0.5, SETTINGS), [-math.log(sigmoid(0.75)), -math.log(sigmoid(-1.0))])
    both = [-0.9 * math.log(sigmoid(0.75)) - 0.1 * math.log(sigmoid(-0.75))]
    close(dpo(CHOSEN, REJECTED, 0.5, Preference(smoothing=0.1))[:1], both)


def test_dpo_of_a_model_that_is_its_reference_is_log_2() -> None:
    same = answers([-5.0], [3], [-5.0])
    close(dpo(same, same, 0.1, SETTINGS), [math.log(2)])


def test_ipo_is_equation_17_of_ratios_a_token_by_hand() -> None:
    # 1/4 - -0.5/3 and -1/6 - 1/2, from each of which 1 / (2 tau) = 2 is subtracted.
    close(ipo(CHOSEN, REJECTED, 0.25, SETTINGS), [(0.25 + 0.5 / 3 - 2) ** 2, (-1 / 6 - 0.5 - 2) ** 2])


def test_simpo_is_equation_6_by_hand() -> None:
    # Means: chosen -1 and -1.5, rejected -2 and -1.5.
    close(
        simpo(CHOSEN, REJECTED, 2.0, Preference(gamma=0.5)),
        [-math.log(sigmoid(2.0 - 0.5)), -math.log(sigmoid(-0.5))],
    )


def test_orpo_is_equation_7_by_hand() -> None:
    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    gaps = [math.log(odds(-1.0) / odds(-2.0)), 0.0]
    close(orpo(CHOSEN, REJECTED, 0.1, SETTINGS), [-0.1 * math.log(sigmoid(gap)) for gap in gaps])
    close(likelihood(CHOSEN), [1.0, 1.5])


@pytest.mark.parametrize("mean", [-1e-9, -1e-6, -0.01, -0.6931, -0.6932, -5.0, -80.0])
def test_log_odds_keep_their_digits_near_certainty_and_near_nothing(mean: float) -> None:
    one = Answers(
        log_prob=torch.tensor([mean], requires_grad=True), tokens=torch.ones(1), reference=torch.zeros(1)
    )
    other = answers([-1.0], [1])
    found = orpo(one, other, 1.0, SETTINGS)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(one.log_prob.grad).all()
    p = min(mean, -1e-7)
    gap = p - math.log(-math.expm1(p)) - (-1.0 - math.log(1 - math.exp(-1.0)))
    assert found.item() == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-4, abs=1e-7)


def test_kto_is_its_definition_by_hand() -> None:
    one = answers([-4.0, -4.0], [4, 4], [-5.0, -5.0])
    good, z = torch.tensor([True, False]), torch.tensor(0.4)
    found = kto(one, good, z, 0.5, Preference(desirable=1.5, undesirable=0.5))
    close(found.double(), [1.5 * (1 - sigmoid(0.5 * 0.6)), 0.5 * (1 - sigmoid(-0.5 * 0.6))])


def test_no_gradient_goes_through_the_reference_point_of_kto() -> None:
    z = torch.tensor(0.4, requires_grad=True)
    log_prob = torch.tensor([-4.0], requires_grad=True)
    one = Answers(log_prob=log_prob, tokens=torch.tensor([4]), reference=torch.tensor([-5.0]))
    kto(one, torch.tensor([True]), z, 0.5, SETTINGS).sum().backward()
    assert z.grad is None
    assert log_prob.grad is not None


@pytest.mark.parametrize("name", sorted(KINDS))
def test_gradients_are_the_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    values = -torch.rand(2, 5, dtype=torch.float64) * 6 - 0.5
    reference = values + torch.randn_like(values)
    tokens = torch.randint(2, 9, (2, 5))
    good = torch.tensor([True, False, True, True, False])
    z = torch.tensor(0.3, dtype=torch.float64)

    def loss(given: Tensor) -> Tensor:
        made = [Answers(log_prob=given[i], tokens=tokens[i], reference=reference[i]) for i in range(2)]
        kind = KINDS[name]
        settings = Preference(smoothing=0.1, desirable=1.3)
        if kind.pairs is None:
            return kto(made[0], good, z, kind.beta, settings).sum() + likelihood(made[0]).sum()
        return (kind.pairs(made[0], made[1], kind.beta, settings) + likelihood(made[0])).sum()

    torch.autograd.gradcheck(loss, (values.requires_grad_(),), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "simpo"])
def test_a_step_along_the_gradient_makes_the_chosen_answer_likelier_and_the_rejected_less(name: str) -> None:
    values = torch.tensor([[-6.0], [-5.0]], dtype=torch.float64, requires_grad=True)
    made = [Answers(log_prob=one, tokens=torch.tensor([4]), reference=one.detach()) for one in values]
    kind = KINDS[name]
    assert kind.pairs is not None
    kind.pairs(made[0], made[1], kind.beta, SETTINGS).sum().backward()
    assert values.grad is not None
    assert values.grad[0] < 0 < values.grad[1]


# trl, where it is installed: the same numbers through its own code.


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the package, which must not ask the hub about the papers that it cites."""
    from datasets import config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    return pytest.importorskip("trl", reason="trl is not installed: pip install 'triptych[peers]'")


def lengths(log_prob: Tensor) -> Tensor:
    return torch.full_like(log_prob, 4, dtype=torch.long)


def some(count: int = 6) -> tuple[Answers, Answers]:
    torch.manual_seed(1)
    made = []
    for _ in range(2):
        log_prob = -torch.rand(count) * 8 - 0.2
        made.append(
            Answers(log_prob=log_prob, tokens=lengths(log_prob), reference=log_prob + torch.randn(count))
        )
    return made[0], made[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_is_that_of_trl(trl: Any, smoothing: float) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    chosen, rejected = some()
    about = SimpleNamespace(
        alpha=0.0, accelerator=SimpleNamespace(device="cpu"), loss_type="simpo", simpo_gamma=0.7, beta=2.5,
        label_smoothing=smoothing,
    )  # fmt: skip
    theirs, first, second = CPOTrainer.cpo_loss(about, chosen.mean, rejected.mean)
    torch.testing.assert_close(
        simpo(chosen, rejected, 2.5, Preference(gamma=0.7, smoothing=smoothing)), theirs
    )
    for one, reward in ((chosen, first), (rejected, second)):
        torch.testing.assert_close(KINDS["simpo"].reward(one, 2.5), reward)


def test_orpo_is_that_of_trl(trl: Any) -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = some()
    about = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    theirs, *_ = ORPOTrainer.odds_ratio_loss(about, chosen.mean, rejected.mean)
    # trl subtracts what it returns.
    torch.testing.assert_close(orpo(chosen, rejected, 0.3, SETTINGS), -theirs)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Return two random text models that differ, and their tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(find_model("nano-omni"))
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.4, **size)))
    for model in models:
        model.config.pad_token_id = tokenizer.pad_token_id
    return models[0], models[1], tokenizer


ROWS = [("what is it? ", "a red carpet", "no idea"), ("and this? ", "wool", "it is a long grey sock, maybe")]


def ours(model: Any, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    loss = TokenLoss(model, torch.device("cpu"))
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    taken = {key: batch[key] for key in ("input_ids", "attention_mask")}
    try:
        with torch.no_grad():
            return loss.rows(model, {**taken, "labels": labels}, len(labels))
    finally:
        loss.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_dpo_and_ipo_are_those_of_trl_from_text_to_loss(
    trl: Any, name: str, pair: tuple[Any, Any, Any], tmp_path: Path
) -> None:
    from datasets import Dataset

    policy, reference, tokenizer = pair
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy), ref_model=copy.deepcopy(reference), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), loss_type=[name], beta=0.3, report_to=[], use_cpu=True, bf16=False,
            per_device_train_batch_size=2, gradient_checkpointing=False,
        ),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
    total, tokens = ours(policy, batch, batch["completion_mask"])
    before, _ = ours(reference, batch, batch["completion_mask"])
    made = [
        Answers(log_prob=total[at], tokens=tokens[at], reference=before[at])
        for at in (slice(0, 2), slice(2, 4))
    ]
    found = {"sigmoid": dpo, "ipo": ipo}[name](made[0], made[1], 0.3, SETTINGS).mean()
    torch.testing.assert_close(found, theirs.float(), rtol=1e-5, atol=1e-6)
    assert made[0].ratio.abs().min() > 0.1  # else any beta would do


@pytest.mark.filterwarnings("ignore")
def test_kto_is_that_of_trl_from_text_to_loss(trl: Any, pair: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from datasets import Dataset

    policy, reference, tokenizer = pair
    rows = [
        {"prompt": asked, "completion": text, "label": label}
        for asked, first, second in ROWS
        for text, label in ((first, True), (second, False))
    ]
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(policy), ref_model=copy.deepcopy(reference), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        args=trl.KTOConfig(
            output_dir=str(tmp_path), beta=0.3, desirable_weight=1.2, report_to=[], use_cpu=True, bf16=False,
            per_device_train_batch_size=4, gradient_checkpointing=False,
        ),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
    beside = {key: batch[f"KL_{key}"] for key in ("input_ids", "attention_mask", "completion_mask")}
    sums = [
        [ours(model, given, given["completion_mask"]) for given in (batch, beside)]
        for model in (policy, reference)
    ]
    ((total, tokens), (moved, _)), ((before, _), (unmoved, _)) = sums
    z = (moved - unmoved).mean().clamp(min=0)
    good = torch.as_tensor(batch["label"], dtype=torch.bool)
    made = Answers(log_prob=total, tokens=tokens, reference=before)
    found = kto(made, good, z, 0.3, Preference(desirable=1.2))
    # trl gives the mean over both kinds together, as we do.
    torch.testing.assert_close(found.mean(), theirs.float(), rtol=1e-5, atol=1e-6)

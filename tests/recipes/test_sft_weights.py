"""Weights of rows count in training as they do in the sum over all rows, however few stand in a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes import sft
from studio import families
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.families._gauge import Gauge
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.encoding import Encoded, encode_samples, open_encoded
from studio.training.loss import TokenLoss
from studio.types import Family, Loaded, Sample, Text, Turn

ANSWERS = ("yes", "no")


def rows(count: int, weights: tuple[float, float]) -> list[Sample]:
    """Return one question with two answers in turns: which is learned is a matter of weights alone."""
    asked = Turn(role="user", parts=(Text(text="is it?"),))
    return [
        Sample(
            turns=(asked, Turn(role="assistant", parts=(Text(text=ANSWERS[number % 2]),))),
            weight=weights[number % 2],
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], Path]) -> tuple[Path, Family, Loaded]:
    folder = tiny("qwen_omni")
    family = families.detect(folder)
    return folder, family, family.load(folder)


def encoded(base: tuple[Path, Family, Loaded], samples: list[Sample], folder: Path) -> Encoded:
    """Return the samples as a run has them."""
    where, family, (model, processor) = base
    gauge = Gauge(folder=where, family=family, processor=processor, config=model.config)
    encode_samples(gauge, samples, folder, QuietLog())
    return open_encoded(gauge, samples, folder)


def test_steps_of_one_row_add_up_to_the_gradient_of_all_rows_by_their_weights(base, tmp_path: Path) -> None:
    """In proportion to tokens, as steps are means over tokens; a step's own weight must not cancel."""
    _, family, (model, processor) = base
    data = encoded(base, rows(4, (0.2, 3.0)), tmp_path)
    loss = TokenLoss(model, torch.device("cpu"))

    def gradient(batch: list[int]) -> torch.Tensor:
        made = family.collate(processor, [data[row] for row in batch], "right")
        model.zero_grad()
        (loss(model, made, [data.weights[row] for row in batch]) / data.supervision(batch)).backward()
        return model.get_input_embeddings().weight.grad.clone()

    whole = gradient([0, 1, 2, 3])
    single = sum(gradient([row]) * data.learned[row] for row in range(4)) / sum(data.learned)
    loss.close()
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=1e-7)  # sums in another order, in float32


@pytest.mark.parametrize("heavy", [0, 1])
def test_sft_learns_the_heavier_of_two_answers_with_one_row_a_step(base, tmp_path: Path, heavy: int) -> None:
    weights = (1.9, 0.1) if heavy == 0 else (0.1, 1.9)
    write_jsonl(tmp_path / "train.jsonl", rows(24, weights))
    run = sft.run(
        from_dict(
            sft.Config,
            {
                "model": str(base[0]), "data": str(tmp_path / "train.jsonl"), "output": str(tmp_path / "run"),
                "method": "full", "lr": 1e-2, "epochs": 2, "batch_size": 1, "resume": False,
            },
        ),
        QuietLog(),
    )  # fmt: skip
    assert read_run(run.folder).state == "finished"
    family = base[1]
    learned = family.load(run.folder / "model")
    loss = TokenLoss(learned.model, torch.device("cpu"))
    samples = load_data(tmp_path / "train.jsonl")[:2]
    plain = [dataclasses.replace(sample, weight=1.0) for sample in samples]
    with torch.no_grad():
        sums, _ = loss.rows(
            learned.model,
            family.collate(
                learned.processor, [family.encode(learned.processor, s, True) for s in plain], "right"
            ),
            2,
        )
    assert int(sums.argmax()) == heavy

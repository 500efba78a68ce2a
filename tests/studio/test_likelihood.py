"""How likely answers are, against the plain model one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio.families import family
from studio.types import Sample, Text, Turn
from studio.variants import Engine

ANSWERS = ["yes", "a red circle", "", "no", "two blue squares there", "yes"]


@pytest.mark.parametrize("name", ["smolvlm", "qwen_omni", "whisper"])
def test_log_probs_are_those_of_the_plain_model_row_by_row(
    name: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind, samples = family(name), questions(name, 6)
    engine = Engine(tiny(name), {"base": None})
    found = engine.log_probs("base", samples, ANSWERS, batch_size=4)
    model, processor = kind.load(tiny(name))
    for sample, answer, (total, count) in zip(samples, ANSWERS, found, strict=True):
        turn = Turn(role="assistant", parts=(Text(text=answer),))
        item = kind.encode(processor, replace(sample, turns=(*sample.prompt, turn)), True)
        batch = kind.collate(processor, [item], "right")
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits.log_softmax(-1)
        if "decoder_input_ids" not in batch:
            logits, labels = logits[:, :-1], labels[:, 1:]
        told = labels != -100
        expected = logits[told].gather(-1, labels[told][:, None]).sum()
        assert count == int(told.sum()) > 0
        assert total == pytest.approx(float(expected), abs=1e-3 * count)  # float32 sums in another order


def test_what_a_model_says_it_finds_likelier_than_another_answer_of_that_length(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    engine, samples = Engine(tiny("qwen_omni"), {"base": None}), questions("qwen_omni", 3)
    said = engine.answers("base", samples, max_new_tokens=1)
    own = engine.log_probs("base", samples, said)
    other = engine.log_probs("base", samples, ["zebra"] * 3)
    for (ours, count), (theirs, length) in zip(own, other, strict=True):
        assert ours / count > theirs / length
        assert 0 < math.exp(ours) <= 1

"""Packed rows: the losses and gradients of padded ones, or the family is found out at start-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from studio import plugins
from studio.families import family
from studio.log import QuietLog
from studio.training.batches import micro_batches
from studio.training.loss import TokenLoss
from studio.training.packing import Packing, packing_pays
from studio.training.parity import Gate
from tests.studio.gradients import assert_same, gradients

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]
CPU = torch.device("cpu")
WEIGHTS = [1.0, 2.0, 0.0, 0.5, 1.0]
#: Their attention also looks ahead, by rules that a row beside another row upsets; or their decoder is
#: beside an encoder; or the positions of their sounds' padding matter.
PADDED = {"gemma", "paligemma", "phi4_multimodal", "whisper"}


class Told(QuietLog):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, message: str) -> None:
        self.sentences.append(message)


def prepared(name: str, tiny: Tiny, questions: Questions) -> tuple[Any, list[Any], Any]:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 5)]
    return model, items, partial(kind.collate, processor, side="right")


@pytest.mark.parametrize("name", plugins.names("families"))
def test_packed_is_unpacked_or_is_held_back(tiny: Tiny, questions: Questions, name: str) -> None:
    model, items, collate = prepared(name, tiny, questions)
    loss, log = TokenLoss(model, CPU), Told()
    packing = Packing(model, collate)
    gate = Gate(model, log)
    plain = gate.measure(lambda: loss(model, collate(items), WEIGHTS))
    allowed = gate.allows("packing", plain, lambda: loss(model, packing(items), WEIGHTS))
    assert len(log.sentences) == 1
    assert log.sentences[0].startswith(f"packing: {'on' if allowed else 'off, because '}")
    assert allowed == (name not in PADDED), log.sentences
    if allowed:
        padded = loss(model, collate(items), WEIGHTS)
        packed = loss(model, packing(items), WEIGHTS)
        assert packed.item() == pytest.approx(padded.item(), rel=1e-5)
        assert_same(gradients(model, packed), gradients(model, padded))


def test_a_row_does_not_see_the_row_before_it(tiny: Tiny, questions: Questions) -> None:
    model, items, collate = prepared("qwen_omni", tiny, questions)
    loss, packing = TokenLoss(model, CPU), Packing(model, collate)
    only_last = [0.0, 0.0, 0.0, 0.0, 1.0]
    with torch.no_grad():
        alone = loss(model, collate(items[-1:]), [1.0])
        among = loss(model, packing(items), only_last)
    assert among.item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_packed_batch_holds_every_token_once_and_no_padding(tiny: Tiny, questions: Questions) -> None:
    model, items, collate = prepared("qwen_vl", tiny, questions)
    batch = Packing(model, collate)(items)
    lengths = [len(item["input_ids"]) for item in items]
    assert batch["input_ids"].tolist()[0] == [int(i) for item in items for i in item["input_ids"]]
    assert batch["rows"][0].bincount().tolist() == lengths
    assert batch["position_ids"].shape == (4, 1, sum(lengths))  # its place, then time, height and width
    assert "attention_mask" not in batch
    assert batch["position_ids"][0, 0].tolist() == [place for n in lengths for place in range(n)]


def test_eight_by_one_is_one_by_eight_is_packed(tiny: Tiny, questions: Questions) -> None:
    kind = family("smolvlm")
    model, processor = kind.load(tiny("smolvlm"), dtype=torch.float32)
    items = [kind.encode(processor, sample, True) for sample in questions("smolvlm", 8)]
    collate = partial(kind.collate, processor, side="right")
    loss, packing = TokenLoss(model, CPU), Packing(model, collate)
    lengths = [len(item["input_ids"]) for item in items]

    def step(parts: list[list[int]], make: Callable[[Any], Any]) -> dict[str, Tensor]:
        total = sum(loss(model, make([items[i] for i in part]), [1.0] * len(part)) for part in parts)
        return gradients(model, total)

    expected = step([[i] for i in range(8)], collate)
    budget = micro_batches(range(8), lengths, 8, tokens=2 * max(lengths))
    assert len(budget) > 1
    for parts, make in (([list(range(8))], collate), ([list(range(8))], packing), (budget, packing)):
        assert_same(step(parts, make), expected)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(20, 2000), st.integers(1, 3))
def test_micro_batches_keep_to_their_tokens(lengths: list[int], tokens: int, world: int) -> None:
    batch = list(range(len(lengths)))
    shares = [micro_batches(batch, lengths, 8, rank, world, tokens=tokens) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    parts = [part for share in shares for part in share if part]
    assert sorted(index for part in parts for index in part) == batch
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[index] for index in part) <= tokens


def test_packing_pays_where_padding_costs_more_than_attention() -> None:
    model = {"parameters": 3_000_000, "width": 1024}
    assert not packing_pays([[44] * 8], **model)  # nothing to save
    assert not packing_pays([[70, 72, 75, 80]], **model)
    assert packing_pays([[20, 30, 300, 40]], **model)
    long = [[2000] * 7 + [3000]]
    assert not packing_pays(long, **model)  # every token would look at 17,000
    assert packing_pays(long, **model, flash=True)

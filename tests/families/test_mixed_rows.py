"""Eight rows at once are eight rows one by one: text alone, one medium, two, of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from studio import plugins
from studio.families import detect
from studio.generate import answers
from studio.training.loss import TokenLoss
from studio.types import Image, Sample, Sound, Text, Turn
from tests.families.test_kinds import OTHERS

Questions = Callable[[str, int], list[Sample]]


def mixed(takes: frozenset[str], questions: Questions) -> list[Sample]:
    """Return eight rows, all different in what they hold and how long they are."""
    seen = [part for sample in questions("smolvlm", 9) for part in sample.images]
    heard = [part for sample in questions("whisper", 9) for part in sample.sounds]
    picture: list[Any] = seen if "image" in takes else heard
    sound: list[Any] = heard if "audio" in takes else seen
    media: list[list[Image | Sound]] = [
        [], [picture[0]], [sound[1]], [picture[1], picture[2]], [sound[2], sound[0]], [],
        [sound[4], picture[3]], [picture[4]],
    ]  # fmt: skip
    return [
        Sample(
            turns=(
                Turn(role="user", parts=(*parts, Text(text=f"what is it? {'two ' * (i % 3)}{i}"))),
                Turn(role="assistant", parts=(Text(text=f"a red circle {'and ' * (i % 4)}{i}"),)),
            )
        )
        for i, parts in enumerate(media)
    ]


@pytest.fixture(params=plugins.names("families") + [f"{kind} too" for kind in sorted(OTHERS)])
def folder(
    request: pytest.FixtureRequest, tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    name = str(request.param)
    other = OTHERS.get(name.removesuffix(" too")) if name.endswith(" too") else None
    return other[1](tmp_path_factory.mktemp("kind")) if other else tiny(name)


def rows_for(folder: Path, questions: Questions) -> list[Sample]:
    record = detect(folder)
    # Whisper hears one sound a row, no more and no less.
    return questions("whisper", 8) if record.name == "whisper" else mixed(record.modalities, questions)


def test_eight_rows_at_once_lose_and_learn_what_they_do_one_by_one(
    folder: Path, questions: Questions
) -> None:
    record = detect(folder)
    model, processor = record.load(folder)
    items = [record.encode(processor, sample, True) for sample in rows_for(folder, questions)]
    loss_of = TokenLoss(model, torch.device("cpu"))

    def step(batches: list[list[dict[str, torch.Tensor]]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = loss_of(model, record.collate(processor, batch, "right"), [1.0] * len(batch))
            loss.backward()
            total += float(loss.detach())
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return total, torch.cat(found)

    together, whole = step([items])
    alone, parts = step([[item] for item in items])
    assert together == pytest.approx(alone, rel=1e-5)
    assert float((whole - parts).norm() / parts.norm()) < 1e-5
    assert float(parts.norm()) > 0


def test_eight_rows_at_once_are_answered_as_one_by_one(folder: Path, questions: Questions) -> None:
    record = detect(folder)
    loaded = record.load(folder)
    samples = rows_for(folder, questions)
    one = answers(loaded, record, samples, max_new_tokens=4, batch_size=1)
    assert answers(loaded, record, samples, max_new_tokens=4, batch_size=8) == one


def test_rows_are_answered_as_by_a_plain_model_of_transformers(folder: Path, questions: Questions) -> None:
    record = detect(folder)
    loaded = record.load(folder)
    plain = type(loaded.model).from_pretrained(folder, dtype=torch.float32).eval()
    # Some towers hear what the shorter of two sounds is filled up with; ours do not.
    samples = [sample for sample in rows_for(folder, questions) if len(sample.sounds) < 2][:6]
    ours = answers(loaded, record, samples, max_new_tokens=6, batch_size=6)
    for sample, answer in zip(samples, ours, strict=True):
        batch = record.collate(loaded.processor, [record.encode(loaded.processor, sample, False)], "left")
        with torch.inference_mode():
            ids = GenerationMixin.generate(plain, **batch, max_new_tokens=6, do_sample=False)
        assert record.decode(loaded.processor, batch, ids) == [answer]


#: Masks over the frames of sounds [N, T], with the features that they mask and the axis of the frames there.
#: Qwen2-Audio's window is filled up by its extractor, and its tower hears how; there is nothing to change.
MASKED = {
    "qwen_omni": ("feature_attention_mask", "input_features", 2),
    "qwen3_omni": ("feature_attention_mask", "input_features", 2),
    "phi4_multimodal": ("audio_attention_mask", "audio_input_features", 1),
    "gemma4": ("input_features_mask", "input_features", 1),
}


def test_what_is_masked_changes_nothing(folder: Path, questions: Questions) -> None:
    record = detect(folder)
    model, processor = record.load(folder)
    items = [record.encode(processor, sample, True) for sample in rows_for(folder, questions)]
    batch = record.collate(processor, items, "right")
    decoder = "decoder_" if "decoder_input_ids" in batch else ""
    real = batch[f"{decoder}attention_mask"].bool()
    changed = {key: value.clone() for key, value in batch.items()}
    changed[f"{decoder}input_ids"][~real] = processor.tokenizer.convert_tokens_to_ids("x")
    assert not real.all()
    if record.name in MASKED:
        mask, features, axis = MASKED[record.name]
        silent = ~batch[mask].bool().unsqueeze(1 if axis == 2 else -1).expand_as(batch[features])
        assert silent.any()
        changed[features][silent] = 3.0
    with torch.no_grad():
        one, two = (model(**each).logits[real] for each in (batch, changed))
    assert torch.equal(one, two)

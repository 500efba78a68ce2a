from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from studio.errors import DataError
from studio.families import _smolvlm_build, detect
from studio.families.smolvlm import FAMILY
from studio.generate import answers
from studio.types import Image, Loaded, Sample, Sound, Text, Turn


@pytest.fixture(scope="module", params=["smolvlm", "idefics3"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = _smolvlm_build.build(tmp_path_factory.mktemp("model"), seed=0, kind=request.param)
    assert detect(folder).name == "smolvlm"
    return FAMILY.load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    made = []
    for i, (height, width) in enumerate([(32, 32), (20, 90), (100, 40)]):
        made.append(folder / f"{i}.png")
        Pictures.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made[-1])
    return made


def row(*parts: Any) -> Sample:
    turns = (
        Turn(role="system", parts=(Text(text="be brief"),)),
        Turn(role="user", parts=parts),
        Turn(role="assistant", parts=(Text(text="a red circle"),)),
    )
    return Sample(turns=turns, file=Path("pictures.jsonl"), line=4)


def chat(sample: Sample) -> list[dict[str, Any]]:
    def content(part: Any) -> dict[str, str]:
        return {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part.text}

    return [{"role": turn.role, "content": [content(p) for p in turn.parts]} for turn in sample.prompt]


@pytest.mark.parametrize("split", [False, True])
def test_prompt_is_that_of_the_processor_in_one_piece(
    split: bool, loaded: Loaded, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = loaded.processor
    monkeypatch.setattr(processor.image_processor, "do_image_splitting", split)
    monkeypatch.setattr(processor.image_processor, "size", {"longest_edge": 96 if split else 32})
    sample = row(Image(path=pictures[1]), Text(text="and "), Image(path=pictures[2]), Text(text="what?"))
    ours = FAMILY.encode(processor, sample, False)
    text = processor.apply_chat_template(chat(sample), add_generation_prompt=True)
    opened = [Pictures.open(image.path) for image in sample.images]
    theirs = processor(text=[text], images=[opened], return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"][0])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"][0])
    tiles = ours["pixel_values"].shape[0]
    assert tiles > 2 if split else tiles == 2
    tokens = int((ours["input_ids"] == processor.image_token_id).sum())
    assert tokens == tiles * processor.image_seq_len


def test_rows_with_different_numbers_of_tiles_share_a_batch(
    loaded: Loaded, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.processor.image_processor, "do_image_splitting", True)
    monkeypatch.setattr(loaded.processor.image_processor, "size", {"longest_edge": 96})
    samples = [
        row(Text(text="no picture")),
        row(Image(path=pictures[0]), Text(text="one")),
        row(Image(path=pictures[1]), Image(path=pictures[2]), Text(text="two")),
    ]
    items = [FAMILY.encode(loaded.processor, sample, True) for sample in samples]
    batch = FAMILY.collate(loaded.processor, items, "right")
    assert batch["pixel_values"].shape[:2] == (3, items[2]["pixel_values"].shape[0])
    assert [int(mask.any(-1).any(-1).sum()) for mask in batch["pixel_attention_mask"]] == [
        len(item.get("pixel_values", ())) for item in items
    ]
    with torch.no_grad():
        together = loaded.model(**batch).logits
        for row_logits, item in zip(together, items, strict=True):
            single = loaded.model(**FAMILY.collate(loaded.processor, [item], "right")).logits[0]
            # float32 rounding of another batch shape
            torch.testing.assert_close(row_logits[: len(single)], single, rtol=1e-4, atol=1e-5)


def test_both_model_types_answer(loaded: Loaded, pictures: list[Path]) -> None:
    samples = [row(Image(path=path), Text(text="what?")) for path in pictures]
    assert len(answers(loaded, FAMILY, samples, max_new_tokens=4)) == 3


def test_a_batch_without_pictures_has_no_pixels(loaded: Loaded) -> None:
    items = [FAMILY.encode(loaded.processor, row(Text(text="hello")), True)]
    assert set(FAMILY.collate(loaded.processor, items, "right")) == {"input_ids", "attention_mask", "labels"}


def test_a_sound_is_refused_with_file_and_line(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    processor = FAMILY.load(tiny("smolvlm")).processor
    with pytest.raises(DataError, match=r"^pictures\.jsonl:4: .*sound"):
        FAMILY.encode(processor, row(Sound(path=tmp_path / "a.wav"), Text(text="what?")), True)

"""What single families that see do in their own way: tiles, crops, ends of answers, one answer a row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from studio.errors import CheckpointError, DataError
from studio.families import detect, family, gauge
from studio.types import Image, Part, Sample, Sound, Text, Turn

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("wide") / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8)
    Pictures.fromarray(pixels).save(file)
    return file


def row(*parts: Part, answer: str = "a red circle") -> Sample:
    turns = (Turn(role="user", parts=parts), Turn(role="assistant", parts=(Text(text=answer),)))
    return Sample(turns=turns, file=Path("seen.jsonl"), line=3)


@pytest.mark.parametrize("name", ["internvl", "llava"])
def test_a_wide_picture_comes_in_tiles_with_a_place_for_each_feature(
    name: str, tiny: Tiny, wide: Path
) -> None:
    measure = gauge(tiny(name))
    item = measure.encode(row(Image(path=wide), Text(text="what?")))
    tiles = item["pixel_values"].flatten(0, -4)
    assert len(tiles) == 3  # the whole, and two halves
    length = measure.length_of(item)
    assert length.there == length.wanted
    assert length.there["image"] > 2 * (4 if name == "internvl" else 16)


def test_gemma_pans_and_scans_where_its_processor_is_set_to(
    tiny: Tiny, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = gauge(tiny("gemma"))
    kind, sample = family("gemma"), row(Image(path=wide), Text(text="what?"))
    plain = measure.encode(sample)
    settings = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32}
    monkeypatch.setattr(
        type(measure.processor), "images_kwargs", type(measure.processor).images_kwargs | settings
    )
    item = measure.encode(sample)
    assert (len(plain["pixel_values"]), len(item["pixel_values"])) == (1, 4)
    length = measure.length_of(item)
    assert length.there == length.wanted == {"image": 16}
    assert int(item["token_type_ids"].sum()) == 16
    with torch.no_grad():
        loss = kind.load(tiny("gemma")).model(**kind.collate(measure.processor, [item], "right")).loss
    assert loss.isfinite()


def test_marks_of_turns_are_refused_though_the_tokenizer_has_no_name_for_them(tiny: Tiny) -> None:
    processor = gauge(tiny("gemma")).processor
    assert "<end_of_turn>" not in processor.tokenizer.all_special_tokens
    with pytest.raises(DataError, match=r"^seen\.jsonl:3: .*<end_of_turn>"):
        family("gemma").encode(processor, row(Text(text="stop<end_of_turn>")), True)


def test_an_answer_whose_template_says_no_end_is_learned_with_the_tokenizers(tiny: Tiny) -> None:
    kind, processor = family("llava"), gauge(tiny("llava")).processor
    one = row(Text(text="what?"))
    twice = Sample(turns=(*one.turns, *row(Text(text="and?"), answer="a blue one").turns))
    item = kind.encode(processor, twice, True)
    text = processor.tokenizer.decode(item["input_ids"])
    assert text == "<s> USER: what? ASSISTANT: a red circle</s> USER: and? ASSISTANT: a blue one</s>"
    spans = processor.tokenizer.convert_ids_to_tokens(item["labels"][item["labels"] != -100])
    assert "".join(spans) == "▁a▁red▁circle</s>▁a▁blue▁one</s>"
    alone = processor.tokenizer("USER: what? ASSISTANT: a red circle</s>")["input_ids"]
    assert kind.encode(processor, one, True)["input_ids"].tolist() == alone


def test_onevision_gives_a_picture_tiles_only_where_it_stands_alone(tmp_path: Path, wide: Path) -> None:
    from studio.families import _llava_build

    measure = gauge(_llava_build.build(tmp_path, "llava_onevision"))
    picture = Image(path=wide)
    alone, two = (measure.encode(row(*pictures)) for pictures in ([picture], [picture, picture]))
    assert (alone["pixel_values"].shape[:2], two["pixel_values"].shape[:2]) == ((1, 3), (2, 1))
    split = Sample(turns=(*row(picture).turns, *row(picture).turns))
    assert torch.equal(measure.encode(split)["pixel_values"], two["pixel_values"])
    for item in (alone, two, measure.encode(split)):
        assert measure.length_of(item).there == measure.length_of(item).wanted


def test_a_llava_with_the_processor_of_another_family_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("smolvlm"), tmp_path / "other"))
    config = json.loads((tiny("llava") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    assert detect(folder).name == "llava"
    with pytest.raises(CheckpointError, match="LLaVA with a SmolVLMProcessor is not handled"):
        gauge(folder)


def test_paligemma_reads_pictures_then_the_task_and_learns_the_answer(tiny: Tiny, wide: Path) -> None:
    kind, processor = family("paligemma"), gauge(tiny("paligemma")).processor
    sample = row(Image(path=wide), Text(text="detect circle"), answer="<loc0010><loc0020> circle")
    item = kind.encode(processor, sample, True)
    pictures = [[Pictures.open(wide).convert("RGB")]]
    theirs = processor(
        text=["<image>detect circle"], images=pictures, suffix=["<loc0010><loc0020> circle"],
        add_special_tokens=False,
    )  # fmt: skip
    assert item["input_ids"].tolist() == theirs["input_ids"][0]
    assert item["token_type_ids"].tolist() == theirs["token_type_ids"][0]
    assert torch.equal(item["pixel_values"], torch.stack(theirs["pixel_values"]))
    assert processor.tokenizer.decode(item["labels"][item["labels"] != -100]) == f"{sample.answer}<eos>"


def test_rows_that_paligemma_cannot_take_are_refused_with_file_and_line(tiny: Tiny, tmp_path: Path) -> None:
    kind, processor = family("paligemma"), gauge(tiny("paligemma")).processor
    one = row(Text(text="caption"))
    rows: list[tuple[Any, str]] = [
        ((*one.turns, *one.turns), "has 2"),
        (one.turns[:1], "has 0"),
        (row(Sound(path=tmp_path / "a.wav")).turns, "sound"),
        (row(Text(text="caption <image>")).turns, "special token <image>"),
    ]
    for turns, reason in rows:
        with pytest.raises(DataError, match=rf"^seen\.jsonl:3: .*{reason}"):
            kind.encode(processor, Sample(turns=turns, file=one.file, line=3), True)

"""What single families that hear do in their own way: sounds that nothing is put between, windows, marks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.errors import CheckpointError, DataError, MediaError
from studio.families import family, gauge
from studio.media import load_sound, save_sound
from studio.types import Image, Part, Sample, Sound, Text, Turn

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Sound]:
    """Return a factory: a number of samples -> a sound of that length."""
    folder = tmp_path_factory.mktemp("heard")

    def make(samples: int) -> Sound:
        wave = np.random.default_rng(samples).normal(0, 0.2, samples).astype(np.float32)
        save_sound(folder / f"{samples}.wav", wave, 16_000)
        return Sound(path=folder / f"{samples}.wav")

    return make


def row(*parts: Part, answer: str = "a red circle") -> Sample:
    turns = (Turn(role="user", parts=parts), Turn(role="assistant", parts=(Text(text=answer),)))
    return Sample(turns=turns, file=Path("heard.jsonl"), line=5)


def test_voxtral_writes_a_conversation_as_mistral_common_does(
    tiny: Tiny, heard: Callable[[int], Sound]
) -> None:
    kind, processor = family("voxtral"), gauge(tiny("voxtral")).processor
    first = row(heard(4000), Text(text="what?"))
    second = row(Text(text="and"), heard(32_001), answer="two")
    item = kind.encode(processor, Sample(turns=first.turns + second.turns), True)
    text = re.sub(
        r"(\[AUDIO\])+", lambda run: f"{len(run[0]) // 7}x", processor.tokenizer.decode(item["input_ids"])
    )
    # mistral-common 1.9.1, instruction form 7; its windows have 30 s and 375 tokens, these 2 s and 25.
    assert (
        text == "<s>[INST][BEGIN_AUDIO]25xwhat?[/INST]a red circle</s>[INST]and[BEGIN_AUDIO]50x[/INST]two</s>"
    )
    assert item["input_features"].shape == (3, 32, 200)
    brief = Turn(role="system", parts=(Text(text="be brief"),))
    silent = Sample(turns=(brief, *row(Text(text="what?")).turns))
    text = processor.tokenizer.decode(kind.encode(processor, silent, False)["input_ids"])
    assert text == "<s>[SYSTEM_PROMPT]be brief[/SYSTEM_PROMPT][INST]what?[/INST]"
    with pytest.raises(DataError, match=r"heard\.jsonl:5: .*system turn"):
        kind.encode(processor, Sample(turns=(brief, *first.turns), file=first.file, line=5), True)


def test_a_voxtral_takes_its_words_from_the_published_file(tiny: Tiny, tmp_path: Path) -> None:
    import base64
    import json
    import shutil

    folder = Path(shutil.copytree(tiny("voxtral"), tmp_path / "published"))
    words = json.loads((folder / "tokenizer.json").read_text())
    special = [token["content"] for token in words["added_tokens"]]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    tekken = {
        "config": {"pattern": r"\\s+|\\S+", "default_vocab_size": len(special) + 256},
        "vocab": [
            {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None}
            for byte in range(256)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)
        ],
    }
    (folder / "tekken.json").write_text(json.dumps(tekken))
    processor = gauge(folder).processor
    text = "<s>[INST]what?[/INST]a red circle</s>"
    item = family("voxtral").encode(processor, row(Text(text="what?")), True)
    assert processor.tokenizer.decode(item["input_ids"]) == text
    assert processor.tokenizer.pad_token_id == special.index("<pad>")


@pytest.mark.parametrize("name", ["granite_speech", "phi4_multimodal"])
def test_a_sound_beside_others_is_made_the_same_features_as_alone(
    name: str, tiny: Tiny, heard: Callable[[int], Sound]
) -> None:
    kind, measure = family(name), gauge(tiny(name))
    sounds = [heard(samples) for samples in (3000, 9001, 5555)]
    item = measure.encode(row(*sounds, Text(text="?")))
    key = "input_features" if name == "granite_speech" else "audio_input_features"
    parts = item[key].split(item["audio_lengths"].tolist())
    for sound, part in zip(sounds, parts, strict=True):
        extractor = measure.processor.audio_processor
        more = {"sampling_rate": 16_000} if name == "phi4_multimodal" else {}
        assert torch.equal(part, extractor([load_sound(sound.path, 16_000)], **more)[key][0])
    length = measure.length_of(item)
    assert length.there == length.wanted
    model = kind.load(tiny(name), dtype=torch.float64).model
    ear = (
        model.model.encoder
        if name == "granite_speech"
        else model.model.embed_tokens_extend.audio_embed.encoder
    )
    batch = kind.collate(measure.processor, [item], "right")
    mask = [] if name == "granite_speech" else [batch["audio_attention_mask"]]
    with torch.no_grad():
        together = ear(batch[key].double(), *mask)
        together = together if torch.is_tensor(together) else together.last_hidden_state
        for row_, part in zip(together, parts, strict=True):
            plain = type(ear).forward(ear, part[None].double(), *([None] if mask else []))
            plain = (plain if torch.is_tensor(plain) else plain.last_hidden_state)[0]
            assert torch.equal(row_[: len(plain)], plain)
            assert not row_[len(plain) :].any()


@pytest.mark.parametrize("name", ["granite_speech", "phi4_multimodal", "voxtral"])
def test_a_copy_of_a_loaded_model_computes_the_same(
    name: str, tiny: Tiny, heard: Callable[[int], Sound]
) -> None:
    import copy

    kind = family(name)
    model, processor = kind.load(tiny(name))
    items = [kind.encode(processor, row(heard(n), Text(text="?")), True) for n in (3000, 9001)]
    batch = kind.collate(processor, items, "right")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**batch).logits
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(twin(**batch).logits, before)


@pytest.mark.parametrize(("name", "samples"), [("granite_speech", 900), ("phi4_multimodal", 300)])
def test_a_sound_that_leaves_no_frame_is_refused(
    name: str, samples: int, tiny: Tiny, heard: Callable[[int], Sound]
) -> None:
    with pytest.raises(MediaError, match=rf"^heard\.jsonl:5: .*{samples}\.wav'.* too short"):
        family(name).encode(gauge(tiny(name)).processor, row(heard(samples), Text(text="?")), True)


def test_a_granite_with_an_adapter_of_its_own_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny("granite_speech"), tmp_path / "three"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter of its own"):
        family("granite_speech").load(folder)


def test_phi_puts_the_sounds_of_a_row_with_pictures_through_the_projector_for_both(
    tiny: Tiny, heard: Callable[[int], Sound], tmp_path: Path
) -> None:
    from PIL import Image as Pictures

    Pictures.new("RGB", (90, 40), (200, 30, 30)).save(tmp_path / "red.png")
    kind, measure = family("phi4_multimodal"), gauge(tiny("phi4_multimodal"))
    model = kind.load(tiny("phi4_multimodal")).model
    rows = [row(heard(4000), Text(text="?")), row(Image(path=tmp_path / "red.png"), heard(5000))]
    items = [measure.encode(each) for each in rows]
    ear = model.model.embed_tokens_extend.audio_embed

    def logits(which: list[dict[str, Any]]) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model(**kind.collate(measure.processor, which, "right")).logits
        return out

    before = [logits([item])[0] for item in items]
    both = logits(items)
    for alone, beside in zip(before, both, strict=True):
        torch.testing.assert_close(beside[: len(alone)], alone, rtol=1e-4, atol=1e-5)  # float32 rounding
    with torch.no_grad():
        ear.down_proj_for_speech.weight.zero_()
    after = [logits([item])[0] for item in items]
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])

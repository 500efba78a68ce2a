from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from studio.errors import MediaError
from studio.families import family, gauge
from studio.media import save_sound
from studio.types import Sample, Sound, Text, Turn


def row(folder: Path, samples: int) -> Sample:
    wave = np.random.default_rng(samples).normal(0, 0.2, samples).astype(np.float32)
    save_sound(folder / f"{samples}.wav", wave, 16_000)
    turns = (
        Turn(role="user", parts=(Sound(path=folder / f"{samples}.wav"), Text(text="?"))),
        Turn(role="assistant", parts=(Text(text="yes"),)),
    )
    return Sample(turns=turns, file=Path("heard.jsonl"), line=5)


@pytest.mark.parametrize("samples", [480, 16_001, 32_000])
def test_every_sound_up_to_the_window_has_a_place_for_each_feature(
    samples: int, tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    length = gauge(tiny("qwen2_audio")).length(row(tmp_path, samples))
    assert length.there == length.wanted
    assert length.there["audio"] > 0


@pytest.mark.parametrize(("samples", "reason"), [(32_001, "lasts 2.0 s.* at most 2 s"), (300, "too short")])
def test_a_sound_that_would_be_cut_or_leaves_no_feature_is_refused(
    samples: int, reason: str, tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    kind = family("qwen2_audio")
    with pytest.raises(MediaError, match=rf"^heard\.jsonl:5: .*{samples}\.wav'.* {reason}"):
        kind.encode(gauge(tiny("qwen2_audio")).processor, row(tmp_path, samples), True)


def test_sounds_are_numbered_through_the_conversation(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    processor = gauge(tiny("qwen2_audio")).processor
    sample = row(tmp_path, 4000)
    twice = Sample(turns=sample.turns * 2)
    text = processor.tokenizer.decode(family("qwen2_audio").encode(processor, twice, True)["input_ids"])
    assert "Audio 1: <|audio_bos|><|AUDIO|>" in text
    assert "Audio 2: <|audio_bos|><|AUDIO|>" in text

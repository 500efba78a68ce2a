"""Qwen2.5-Omni: sounds are padded only as far as their frames reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from studio import families
from studio.media import load_sound, save_sound
from studio.types import Sample, Sound, Text, Turn


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 799, 16_000, 50_001, 127_600, 127_999, 128_000])
def test_features_are_those_of_the_whole_window(
    tmp_path: Path, tiny: Callable[[str], Path], samples: int
) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    wave = np.random.default_rng(samples).normal(0, 0.2, samples).astype(np.float32)
    save_sound(tmp_path / "a.wav", wave, 16_000)
    turns = (
        Turn(role="user", parts=(Sound(path=tmp_path / "a.wav"), Text(text="?"))),
        Turn(role="assistant", parts=(Text(text="yes"),)),
    )
    item = gauge.encode(Sample(turns=turns))
    whole = gauge.processor.feature_extractor(
        load_sound(tmp_path / "a.wav", 16_000),
        sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    frames = int(whole["attention_mask"].sum())
    assert int(item["feature_attention_mask"].sum()) == frames == item["input_features"].shape[-1]
    # A matrix product of another width may round its last digit differently.
    torch.testing.assert_close(
        item["input_features"][0], whole["input_features"][0, :, :frames], rtol=0, atol=1e-6
    )

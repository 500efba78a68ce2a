"""Qwen-Omni: sounds are padded only as far as they reach; the thinker of a whole model stands alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergers import MergeSpec, merge
from studio.adapters import add_lora, save_adapter
from studio.families import detect, gauge
from studio.log import QuietLog
from studio.media import load_sound, save_sound
from studio.types import Sample, Sound, Text, Turn


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 799, 16_000, 50_001, 127_600, 127_999, 128_000])
def test_features_are_those_of_the_whole_window(
    tmp_path: Path, tiny: Callable[[str], Path], samples: int
) -> None:
    measure = gauge(tiny("qwen_omni"))
    wave = np.random.default_rng(samples).normal(0, 0.2, samples).astype(np.float32)
    save_sound(tmp_path / "a.wav", wave, 16_000)
    turns = (
        Turn(role="user", parts=(Sound(path=tmp_path / "a.wav"), Text(text="?"))),
        Turn(role="assistant", parts=(Text(text="yes"),)),
    )
    item = measure.encode(Sample(turns=turns))
    whole = measure.processor.feature_extractor(
        load_sound(tmp_path / "a.wav", 16_000),
        sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    frames = int(whole["attention_mask"].sum())
    assert int(item["feature_attention_mask"].sum()) == frames == item["input_features"].shape[-1]
    # A matrix product of another width may round its last digit differently.
    torch.testing.assert_close(
        item["input_features"][0], whole["input_features"][0, :, :frames], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("name", "kind"), [("qwen_omni", "qwen2_5_omni"), ("qwen3_omni", "qwen3_omni_moe")])
def test_the_thinker_of_a_model_that_speaks_is_trained_alone_and_merged_into_the_whole(
    name: str,
    kind: str,
    tiny: Callable[[str], Path],
    questions: Callable[[str, int], list[Sample]],
    tmp_path: Path,
) -> None:
    whole = Path(shutil.copytree(tiny(name), tmp_path / "whole"))
    weights = load_file(whole / "model.safetensors")
    spoken = {"talker.said": torch.arange(3.0)}
    save_file(
        {f"thinker.{key}": value for key, value in weights.items()} | spoken,
        whole / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": kind, "thinker_config": config}))

    record = detect(whole)
    assert record.name == name
    item = gauge(whole).encode(questions(name, 2)[1])
    length = gauge(whole).length_of(item)
    assert length.there == length.wanted == gauge(tiny(name)).length_of(item).wanted
    model, processor = record.load(whole)
    plain = record.load(tiny(name)).model
    batch = record.collate(processor, [item], "right")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain(**batch).logits)
    adapted = add_lora(model, record, ["llm", "audio"], r=2, alpha=4, seed=0)
    with torch.no_grad():
        for path, parameter in adapted.named_parameters():
            if "lora_B" in path:
                parameter.fill_(0.05)
        expected = adapted(**batch).logits
    save_adapter(adapted, tmp_path / "adapter", base=whole, family=record)
    spec = MergeSpec.from_flags(
        method="task_arithmetic", models=[str(tmp_path / "adapter")], base=whole, output="model"
    )
    merge(spec, tmp_path / "merged", QuietLog())
    with torch.no_grad():
        merged = record.load(tmp_path / "merged").model(**batch).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)  # float32 rounding
    kept = load_file(tmp_path / "merged/model.safetensors")
    assert torch.equal(kept["talker.said"], spoken["talker.said"])

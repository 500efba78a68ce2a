"""Attacks: gradients through processors that are what the processors make, budgets that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio import families
from studio.adversarial import Attack, attacked
from studio.adversarial_pixels import PixelReader
from studio.adversarial_waves import KEY, WaveReader, log_mels
from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.media import load_image, load_sound, save_image, save_sound
from studio.types import Image, Sample, Sound, Text, Turn
from studio.variants import Engine

Tiny = Callable[[str], Path]
ANSWER = Turn(role="assistant", parts=(Text(text="a red circle"),))


def asked(*parts: Any) -> Sample:
    return Sample(turns=(Turn(role="user", parts=(*parts, Text(text="what is it?"))), ANSWER))


@pytest.fixture
def seen(tmp_path: Path) -> Sample:
    draw = np.random.default_rng(0)
    for name, size in (("a", (40, 70, 3)), ("b", (64, 64, 3))):
        save_image(tmp_path / f"{name}.png", draw.integers(0, 256, size, dtype=np.uint8))
    return asked(Image(path=tmp_path / "a.png"), Image(path=tmp_path / "b.png"))


@pytest.fixture
def heard(tmp_path: Path) -> Sample:
    wave = 0.3 * np.sin(np.arange(12_345) / 9) + 0.02 * np.random.default_rng(0).standard_normal(12_345)
    save_sound(tmp_path / "a.wav", wave.astype(np.float32), 16_000)
    return asked(Sound(path=tmp_path / "a.wav"))


def processor_of(tiny: Tiny, name: str) -> tuple[Any, Any]:
    family = families.family(name)
    return family, family.load(tiny(name)).processor


@pytest.mark.parametrize("name", ["qwen_omni", "qwen_vl", "gemma"])
def test_a_row_made_of_its_pixels_is_what_the_processor_makes(
    tiny: Tiny, seen: Sample, tmp_path: Path, name: str
) -> None:
    family, processor = processor_of(tiny, name)
    row = PixelReader(family, processor, tmp_path / "probes").read(seen)
    own, key = family.encode(processor, seen, True), row.layout.key
    assert torch.allclose(row.encoded(row.clean)[key], own[key].float(), atol=0.04)
    other = (255 - row.clean).requires_grad_()
    made = row.encoded(other)[key]
    saved = family.encode(processor, row.saved(other, tmp_path, "other"), True)
    assert torch.allclose(made, saved[key].float(), atol=0.04)
    made.square().sum().backward()
    assert (other.grad != 0).float().mean() > 0.95


def test_a_processor_that_cuts_tiles_of_several_sizes_is_refused(
    tiny: Tiny, seen: Sample, tmp_path: Path
) -> None:
    family, processor = processor_of(tiny, "llava")
    with pytest.raises(DataError, match="family llava cannot be attacked"):
        PixelReader(family, processor, tmp_path / "probes").read(seen)


@pytest.mark.parametrize("name", ["qwen_omni", "whisper", "qwen2_audio"])
def test_features_of_a_wave_are_those_of_the_extractor(tiny: Tiny, heard: Sample, name: str) -> None:
    family, processor = processor_of(tiny, name)
    row = WaveReader(family, processor).read(heard)
    wave = row.clean.clone().requires_grad_()
    made = row.encoded(wave)[KEY]
    assert torch.allclose(made, family.encode(processor, heard, True)[KEY].float(), atol=1e-3)
    made.square().sum().backward()
    assert bool(torch.isfinite(wave.grad).all())
    assert wave.grad.abs().max() > 0


def test_silence_has_a_gradient_that_is_a_number(tiny: Tiny) -> None:
    _, processor = processor_of(tiny, "whisper")
    wave = torch.zeros(4000, requires_grad=True)
    log_mels(wave, processor.feature_extractor, 25).sum().backward()
    assert bool(torch.isfinite(wave.grad).all())


def test_features_of_another_kind_are_refused(tiny: Tiny, heard: Sample) -> None:
    family, processor = processor_of(tiny, "granite_speech")
    with pytest.raises(DataError, match="not those of Whisper's extractor"):
        WaveReader(family, processor).read(heard)


@pytest.mark.parametrize(("on", "eps"), [("picture", 8.0), ("sound", 0.004)])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_keep_within_eps_and_make_the_answer_less_probable(
    tiny: Tiny, seen: Sample, heard: Sample, tmp_path: Path, name: Any, on: Any, eps: float
) -> None:
    engine = Engine(tiny("qwen_omni"), {"base": None})
    rows = [replace(seen if on == "picture" else heard, line=line) for line in (1, 2)]
    attack = Attack(name=name, on=on, eps=eps, steps=4)
    first, again = (
        attacked(engine.held("base"), rows, attack, tmp_path / part, QuietLog(), batch_size=2)
        for part in ("a", "b")
    )
    answers = [row.answer for row in rows]
    before, after = (
        [likely for likely, _ in engine.log_probs("base", each, answers)] for each in (rows, first)
    )
    assert all(new < old for old, new in zip(before, after, strict=True))
    assert [row.answer for row in first] == answers
    clean = values_of(rows[0])
    for row, same in zip(first, again, strict=True):
        found, repeated = values_of(row), values_of(same)
        assert np.array_equal(found, repeated)
        assert 0 < np.abs(found - clean).max() <= eps + 1e-6


def values_of(row: Sample) -> Any:
    if row.images:
        return np.concatenate([np.asarray(load_image(i.path), dtype=float).ravel() for i in row.images])
    return np.concatenate([load_sound(sound.path, 16_000) for sound in row.sounds])


def test_pgd_finds_worse_than_fgsm(tiny: Tiny, seen: Sample, tmp_path: Path) -> None:
    engine = Engine(tiny("qwen_omni"), {"base": None})
    likely = {}
    for name in ("fgsm", "pgd"):
        attack = Attack(name=name, on="picture", eps=16, steps=8)
        rows = attacked(engine.held("base"), [seen], attack, tmp_path / name, QuietLog())
        likely[name] = engine.log_probs("base", rows, [seen.answer])[0][0]
    assert likely["pgd"] < likely["fgsm"]


def test_a_budget_that_allows_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"eps must be from 1 to 255 of 255 for a picture, not 0\.03"):
        Attack(name="pgd", on="picture", eps=0.03)
    with pytest.raises(ConfigError, match="of full scale for a sound, not 8"):
        Attack(name="fgsm", on="sound", eps=8)
    with pytest.raises(ConfigError, match="at least 1 step"):
        Attack(name="pgd", on="picture", eps=8, steps=0)

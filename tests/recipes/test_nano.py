"""The recipe of the shipped base, small: it renders, listens, learns, measures and writes a card."""

from __future__ import annotations

import json
import shutil

import pytest

from recipes import nano
from studio.config import load
from studio.families import detect
from studio.log import QuietLog

pytestmark = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_the_smoke_preset_makes_a_model_that_loads_and_a_card(tmp_path) -> None:
    config = load(
        nano.Config, preset="smoke", presets=nano.PRESETS, overrides=[f"output={tmp_path / 'nano'}"]
    )
    run = nano.run(config, QuietLog())
    model = run.folder / "model"
    loaded = detect(model).load(model)
    assert type(loaded.model).__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert "Exact match" in (model / "README.md").read_text()
    report = json.loads((run.folder / "run.json").read_text())
    assert report["scores"]["picture"]["n"] == config.test


def test_ctc_pulls_the_audio_tower_towards_what_was_said(tmp_path) -> None:
    config = load(
        nano.Config, preset="smoke", presets=nano.PRESETS,
        overrides=[f"output={tmp_path / 'nano'}", "listen_steps=40", "steps=1", "clips=16", "lr=0.005"],
    )  # fmt: skip
    nano.run(config, QuietLog())
    losses = json.loads((config.output / "losses.json").read_text())
    assert losses[39] < 0.6 * losses[0]

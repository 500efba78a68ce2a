"""The recipe of the shipped base, small: it renders, listens, learns, measures and writes a card."""

from __future__ import annotations

import shutil

import pytest
import torch

from recipes import nano
from studio.config import load
from studio.families import _omni_build, detect
from studio.families.qwen_omni import FAMILY
from studio.log import QuietLog
from studio.runs import read_run
from studio.synthetic import general

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
    record = read_run(run.folder)
    assert record is not None
    assert record.state == "finished"
    assert {"picture", "words", "words/each", "both", "text"} <= set(record.metrics)


def test_ctc_pulls_the_audio_tower_towards_what_was_said(tmp_path) -> None:
    overrides = [f"output={tmp_path / 'nano'}", "listen_steps=40", "clips=16", "lr=0.005"]
    config = load(nano.Config, preset="smoke", presets=nano.PRESETS, overrides=overrides)
    train = nano.render(config, "train", QuietLog())
    blank = _omni_build.build(tmp_path / "blank", _omni_build.TINY, general.corpus(), 0)
    model, processor = FAMILY.load(blank)
    pools = nano.encode(processor, [s for s in train if s.groups["kind"] == "words"], QuietLog())
    batch = nano.collate(processor, pools["words"][:16])
    head = torch.nn.Linear(64, len(processor.tokenizer))
    before = float(nano.Listener(processor, head).loss(model, batch).detach())
    nano.restore(nano.listen(config, blank, train, tmp_path / "stage"), model.model.audio_tower, head)
    assert float(nano.Listener(processor, head).loss(model, batch).detach()) < 0.6 * before


def test_a_finished_stage_is_not_done_again(tmp_path) -> None:
    config = load(
        nano.Config, preset="smoke", presets=nano.PRESETS, overrides=[f"output={tmp_path / 'nano'}"]
    )
    nano.run(config, QuietLog())
    stages = sorted(config.output.glob("stage-*.safetensors"))
    assert [file.stem.split("-")[2] for file in stages] == ["listen", "read", "recognise"]
    before = [file.stat().st_mtime_ns for file in stages]
    weights = (config.output / "model" / "model.safetensors").read_bytes()
    nano.run(config, QuietLog())
    assert [file.stat().st_mtime_ns for file in stages] == before
    assert (config.output / "model" / "model.safetensors").read_bytes() == weights

"""What every augmentation step must keep, found by discovery: a new file under studio/augment is tested."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from studio import plugins
from studio.augment._rows import draw_of
from studio.augment._settings import hints
from studio.augment._steps import Step, read_steps

NAMES = plugins.names("augment")
RATE = 16_000
TEXT = "Please write the command, then stop the heater."


@pytest.fixture(scope="module", params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("augment", request.param)


@pytest.fixture
def step(module: ModuleType, tiny: Callable[[str], Path], tmp_path: Path) -> Step:
    """Return the step with its defaults, and something for each setting that has none."""
    (tmp_path / "table.txt").write_text("command, order, instruction\nstop, halt\n")
    model = str(tiny("qwen_omni"))
    needed = {"table": str(tmp_path / "table.txt"), "model": model, "there": model, "tokens": 8}
    known = hints(module)
    given = {name: needed[name] for name in known if name in needed}
    if getattr(module, "NEEDS_LABELS", False):
        given["labels"] = "none of [left, right]"
    (made,) = read_steps([{module.__name__.rpartition(".")[2]: given}])
    return made


def something(takes: str) -> Any:
    """Return a sound of one second, a picture, a text, or features, as the steps get them."""
    numbers = np.random.default_rng(0)
    if takes == "samples":
        wave = 0.2 * np.sin(np.arange(RATE) / 20) + 0.02 * numbers.standard_normal(RATE)
        return wave.astype(np.float32)
    if takes == "picture":
        return Pictures.fromarray(numbers.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    return TEXT if takes == "text" else torch.rand(80, 200, generator=torch.Generator().manual_seed(0))


def apply(step: Step, epoch: int) -> Any:
    more = {"rate": RATE} if step.takes == "samples" else {}
    given = something(step.takes)
    return step.augment(given, draw_of(0, epoch, 0, 0, "x"), **more, **step.settings)


def plain(value: Any) -> Any:
    return value if isinstance(value, str) else np.asarray(value)


def test_there_are_steps_for_sounds_pictures_texts_and_features() -> None:
    assert {"speed", "noise", "reverb", "gain", "specaugment", "crop", "flip", "colour", "blur", "jpeg"} <= {
        *NAMES
    }
    assert {"synonyms", "insertion", "deletion", "swap", "paraphrase", "backtranslation"} <= {*NAMES}


def test_defaults_stand_within_their_ranges_and_all_is_said(module: ModuleType) -> None:
    assert inspect.getdoc(module)
    assert inspect.getdoc(module.augment)
    for name, (_, limits, default) in hints(module).items():
        if limits is not None and default is not inspect.Parameter.empty:
            for end in default if isinstance(default, tuple) else (default,):
                assert limits.low <= end <= limits.high, name


def test_the_same_draw_gives_the_same_and_what_is_given_stays_as_it_is(step: Step) -> None:
    before = plain(something(step.takes))
    state = torch.random.get_rng_state()
    first, again = plain(apply(step, 0)), plain(apply(step, 0))
    assert np.array_equal(first, again)
    assert np.array_equal(plain(something(step.takes)), before)
    assert torch.equal(torch.random.get_rng_state(), state), "a step draws from its own numbers only"


def test_another_epoch_gives_something_else(step: Step) -> None:
    several = [plain(apply(step, epoch)) for epoch in range(12)]
    assert any(not np.array_equal(several[0], other) for other in several) or step.name == "flip"


def test_what_comes_out_has_the_form_that_went_in(step: Step) -> None:
    before, after = something(step.takes), apply(step, 3)
    if step.takes == "samples":
        assert after.dtype == np.float32
        assert after.ndim == 1
        assert 0 < np.abs(after).max() <= 1
    elif step.takes == "picture":
        assert (after.mode, after.size) == ("RGB", before.size)
    elif step.takes == "features":
        assert after.shape == before.shape
        assert bool(torch.isfinite(after).all())
    else:
        assert after.strip()


def test_an_unknown_setting_and_one_out_of_range_are_told(step: Step) -> None:
    from studio.errors import ConfigError

    with pytest.raises(ConfigError, match=rf"augment\.{step.name}: unknown setting 'nonsense'"):
        read_steps([{step.name: {"nonsense": 1}}])
    with pytest.raises(ConfigError, match=rf"augment\.{step.name}: 'p' must be above 0 and at most 1"):
        read_steps([{step.name: {"p": 1.5}}])

"""Explaining answers: units, values against games that are known, and three methods on tiny models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.errors import ConfigError, DataError, TriptychError, UnknownName
from studio.explain import METHODS, explain
from studio.explain_curves import curves
from studio.explain_units import Eraser, cut, filling
from studio.media import load_image, read_sound
from studio.types import Sample, Text, Turn
from studio.variants import Engine

pytest.importorskip("captum")


def said(text: str) -> Sample:
    return Sample(turns=(Turn(role="user", parts=(Text(text=text),)),))


class Game:
    """An engine whose log p is known: +2 for "red", -1 for "not", +3 for "big" and "old" together."""

    def fingerprint(self, name: str) -> str:
        return name

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **_: Any
    ) -> list[tuple[float, int]]:
        words = [set(sample.prompt[0].text.split()) for sample in samples]
        return [(2.0 * ("red" in w) - ("not" in w) + 3.0 * ({"big", "old"} <= w) - 5, 1) for w in words]


@pytest.fixture
def engine(tiny: Callable[[str], Path]) -> Engine:
    folder = tiny("qwen_omni")
    made = Engine(folder, {"base": None})
    adapter = {
        "model.language_model.layers.0.self_attn.q_proj": _factors(made, 1),
        "model.language_model.layers.0.mlp.down_proj": _factors(made, 2, "mlp.down_proj"),
    }
    made.live("other", adapter)
    return made


def _factors(engine: Engine, seed: int, name: str = "self_attn.q_proj") -> Any:
    from studio.adapter_format import Factors

    rows, columns = (
        engine.held("base")[1].model.get_submodule(f"model.language_model.layers.0.{name}").weight.shape
    )
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*size, generator=draw) * 0.3 for size in ((2, columns), (rows, 2)))
    return Factors(a=a, b=b, shape=(rows, columns))


@pytest.fixture
def both(questions: Callable[[str, int], list[Sample]]) -> Sample:
    """Return a question with a picture, a sound and words."""
    return questions("qwen_omni", 2)[1]


def test_units_cover_pictures_sounds_and_texts_once(both: Sample) -> None:
    units = cut(both, grid=3, spans=4)
    pictures = {at: part.path for at, part in enumerate(both.prompt[0].parts) if hasattr(part, "path")}
    assert both.images
    assert both.sounds
    for at, path in pictures.items():
        own = [unit for unit in units if unit.part == at]
        if own[0].kind == "region":
            width, height = load_image(path).size
            covered = np.zeros((height, width), int)
            for unit in own:
                left, top, right, bottom = map(int, unit.place)
                covered[top:bottom, left:right] += 1
            assert (covered == 1).all()
        else:
            wave, rate = read_sound(path)
            ends = [unit.place for unit in own]
            assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]]
            assert ends[0][0] == 0
            assert ends[-1][1] == pytest.approx(len(wave) / rate)
    words = [unit for unit in units if unit.kind == "word"]
    assert " ".join(unit.text for unit in words) == both.prompt[0].parts[-1].text


def test_what_is_erased_is_gone_and_nothing_else_is_changed(both: Sample, tmp_path: Path) -> None:
    units = cut(both, grid=2, spans=4)
    eraser = Eraser(both, units, tmp_path)
    assert eraser.without([False] * len(units)) is both
    region = next(at for at, unit in enumerate(units) if unit.kind == "region")
    less = eraser.without([at == region for at in range(len(units))])
    before, after = (np.asarray(load_image(each.images[0].path), float) for each in (both, less))
    left, top, right, bottom = map(int, units[region].place)
    changed = (before != after).any(-1)
    assert changed[top:bottom, left:right].mean() > 0.9
    changed[top:bottom, left:right] = False
    assert not changed.any()
    assert (less.sounds, less.prompt[0].text) == (both.sounds, both.prompt[0].text)
    span = next(at for at, unit in enumerate(units) if unit.kind == "span")
    less = eraser.without([at == span + 1 for at in range(len(units))])
    (wave, rate), (heard, _) = (read_sound(each.sounds[0].path) for each in (both, less))
    start, end = (round(each * rate) for each in units[span + 1].place)
    assert not heard[start:end].any()
    edge = int(0.01 * rate)
    assert np.abs(heard[: start - edge] - wave[: start - edge]).max() < 1e-4  # 16 bits
    word = next(at for at, unit in enumerate(units) if unit.text == "is")
    less = eraser.without([at == word for at in range(len(units))])
    assert less.prompt[0].text == both.prompt[0].text.replace("is ", "")
    assert list(tmp_path.iterdir())
    eraser.sweep()
    assert not list(tmp_path.iterdir())


def test_a_blur_keeps_the_level_and_loses_the_detail() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (48, 60, 3)).astype(np.float32)
    blurred = filling(pixels, "blur")
    assert blurred.shape == pixels.shape
    assert blurred.mean() == pytest.approx(pixels.mean(), rel=0.05)
    assert blurred.std() < 0.1 * pixels.std()
    assert filling(pixels, "mean")[..., 0].std() < 0.01  # of 255: rounding


def test_shapley_values_are_those_of_a_game_that_is_known() -> None:
    """With no more than pairs at play, one order and its reverse give the exact values."""
    found = explain(Game(), "any", said("not big red old"), answer="yes", budget=8)  # type: ignore[arg-type]
    assert dict(zip((unit.text for unit in found.units), found.weights, strict=True)) == pytest.approx(
        {"not": -1, "big": 1.5, "red": 2, "old": 1.5}
    )
    assert (found.value, found.empty, found.rounds) == (-1, -5, 2)
    assert found.delta == pytest.approx(0, abs=1e-6)
    assert found.passes == 8


def test_occlusion_is_blind_to_nothing_that_stands_alone() -> None:
    found = explain(Game(), "any", said("not big red old"), answer="yes", method="occlusion")  # type: ignore[arg-type]
    assert found.weights == pytest.approx((-1, 3, 2, 3))
    assert found.delta == pytest.approx(3)  # what two words do together is counted twice


def test_true_weights_delete_and_insert_better_than_random_orders() -> None:
    question = said("not big red old one two three four")
    found = explain(Game(), "any", question, answer="yes", budget=60)  # type: ignore[arg-type]
    checked = curves(Game(), found, question, orders=5)  # type: ignore[arg-type]
    assert checked.deletion < checked.random_deletion
    assert checked.insertion > checked.random_insertion


@pytest.mark.parametrize("method", METHODS)
def test_a_difference_is_that_of_two_explanations(engine: Engine, both: Sample, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "answer": "red", "grid": 2, "spans": 2, "seed": 3}
    one = explain(engine, "base", both, budget=40, **settings)
    other = explain(engine, "other", both, budget=40, **settings)
    apart = explain(engine, "other", both, against="base", budget=80, **settings)
    assert one.weights != other.weights
    expected = [b - a for a, b in zip(one.weights, other.weights, strict=True)]
    assert apart.weights == pytest.approx(expected, abs=1e-4)
    assert apart.value == pytest.approx(other.value - one.value, abs=1e-4)
    assert apart.passes == one.passes + other.passes
    if method == "shapley":  # the orders are drawn by the seed
        again = explain(engine, "other", both, against="base", budget=80, **settings)
        assert again.weights == apart.weights


def test_the_weights_add_up_and_say_how_sure_they_are(engine: Engine, both: Sample) -> None:
    total = engine.log_probs("base", [both], ["red"])[0][0]
    shapley = explain(engine, "base", both, answer="red", grid=2, spans=2, budget=60)
    assert shapley.value == pytest.approx(total, abs=1e-4)
    assert sum(shapley.weights) == pytest.approx(shapley.value - shapley.empty, abs=1e-4)
    assert len(shapley.errors) == len(shapley.units)
    assert shapley.passes <= 60
    gradients = explain(engine, "base", both, answer="red", grid=2, spans=2, method="gradients", budget=40)
    assert gradients.value == pytest.approx(total, abs=1e-4)
    gain = abs(gradients.value - gradients.empty)
    assert abs(gradients.delta) < 0.05 * gain + 1e-3  # 36 steps of the integral


def test_the_work_ends_where_a_batch_may_not_begin(engine: Engine, both: Sample) -> None:
    entered = 0

    @contextmanager
    def slices() -> Iterator[None]:
        nonlocal entered
        entered += 1
        if entered > 3:
            raise InterruptedError
        yield

    with pytest.raises(InterruptedError):
        explain(engine, "base", both, answer="red", budget=400, batch_size=4, within=slices)
    assert entered == 4
    assert engine.answer("base", both, max_new_tokens=2) is not None  # the model is free


def test_mistakes_are_told_in_one_sentence(engine: Engine, both: Sample, monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match=r"budget is 10 forward passes, but shapley over \d+ regions"):
        explain(engine, "base", both, answer="red", budget=10)
    with pytest.raises(UnknownName, match="did you mean 'shapley'"):
        explain(engine, "base", both, method="shaply")
    with pytest.raises(UnknownName, match="unknown variant 'bas'; did you mean 'base'"):
        explain(engine, "bas", both, answer="red")
    with pytest.raises(ConfigError, match="cannot be explained against itself"):
        explain(engine, "base", both, against="base")
    with pytest.raises(ConfigError, match="fill is 'black'; allowed: blur, mean, grey"):
        explain(engine, "base", both, answer="red", fill="black")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="grid is 99; allowed: 0 to 32"):
        cut(both, grid=99)
    with pytest.raises(DataError, match="no picture, sound or word may be taken away"):
        cut(both, grid=0, spans=0, words=False)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(TriptychError, match="needs captum, which is not installed"):
        explain(engine, "base", both)

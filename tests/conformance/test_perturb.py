"""What every perturbation must keep, found by discovery: a new file under studio/perturb is tested."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from PIL import Image as Pictures

from studio import plugins
from studio.errors import ConfigError, UnknownName
from studio.media import load_image, load_sound, save_sound
from studio.perturb._rows import STRONGEST, Perturbation, Perturber, perturbation
from studio.types import Image, Sample, Sound, Text, Turn

NAMES = plugins.names("perturb")
RATE = 16_000
ROWS = 6


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Perturbation:
    return perturbation(request.param)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Rows with a picture, a sound and a question each: what is in them differs."""
    folder, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    made = []
    for i in range(ROWS):
        down, across = np.mgrid[0:72, 0:96]
        scene = np.stack([down * 3, across * 2, 60 + 0 * down], axis=-1)
        scene[20 + i : 50, 10 : 60 + 4 * i] = (220, 180, 20)
        Pictures.fromarray(scene.astype(np.uint8)).save(folder / f"{i}.png")
        time = np.arange(RATE + 1000 * i) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (200 + 50 * i) * time) * np.sin(2 * np.pi * 3 * time)
        save_sound(folder / f"{i}.wav", (wave + 0.05 * draw.standard_normal(len(time))).astype("f4"), RATE)
        parts = (
            Image(path=folder / f"{i}.png"),
            Sound(path=folder / f"{i}.wav"),
            Text(text=f"Please look at this cloth and say what its {i}th pattern is called in the trade."),
        )
        turns = (
            Turn(role="system", parts=(Text(text="You know about cloth."),)),
            Turn(role="user", parts=parts),
            Turn(role="assistant", parts=(Text(text=f"It is the pattern {i}."),)),
        )
        made.append(Sample(turns=turns, file=folder / "rows.jsonl", line=i + 1, groups={"loom": "a"}))
    return made


def at_strength(one: Perturbation, rows: list[Sample], folder: Path, strength: int, seed: int = 0) -> Any:
    folder.mkdir(exist_ok=True)
    others = [sound.path for row in rows for sound in row.sounds]
    perturber = Perturber(perturbation=one, seed=seed, folder=folder, others=others)
    return [perturber.sample(row, strength) for row in rows]


def content(row: Sample) -> list[Any]:
    """What a model is given of a row, by part."""
    return [
        part.text
        if isinstance(part, Text)
        else np.asarray(load_image(part.path), dtype=np.float32)
        if isinstance(part, Image)
        else load_sound(part.path, RATE)
        for turn in row.turns
        for part in turn.parts
    ]


def distance(before: Sample, after: Sample) -> float:
    """How far what a model is given is from what it was: pixels, samples or seconds, letters."""
    total = 0.0
    for old, new in zip(content(before), content(after), strict=True):
        if isinstance(old, str):
            total += float(jiwer.cer(old, new))
        elif old.shape == new.shape:
            total += float(np.square(old - new).mean())
        else:
            total += abs(float(np.log(len(new) / len(old))))
    return total


def test_there_are_perturbations_for_pictures_sounds_and_texts() -> None:
    assert {"blur", "jpeg", "image_noise", "overlay", "occlusion", "rotation"} <= {*NAMES}
    assert {"sound_noise", "babble", "gain", "clipping", "speed", "codec"} <= {*NAMES}
    assert {"typos", "case", "distractor", "injection"} <= {*NAMES}


def test_all_is_said_and_the_levels_go_one_way(one: Perturbation) -> None:
    module = plugins.load("perturb", one.name)
    assert inspect.getdoc(module)
    assert inspect.getdoc(module.perturb)
    assert module.UNIT
    steps = np.diff(one.levels)
    assert (steps > 0).all() or (steps < 0).all()


def test_strength_0_is_the_row_itself(one: Perturbation, rows: list[Sample], tmp_path: Path) -> None:
    assert all(a is b for a, b in zip(at_strength(one, rows, tmp_path, 0), rows, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_the_seed_alone_decides_what_comes_out(one: Perturbation, rows: list[Sample], tmp_path: Path) -> None:
    first, again = (
        [content(row) for row in at_strength(one, rows, tmp_path / name, 3)] for name in ("a", "b")
    )
    for left, right in zip(first, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(left, right, strict=True))


def test_a_row_comes_out_the_same_among_others_and_elsewhere(
    one: Perturbation, rows: list[Sample], tmp_path: Path
) -> None:
    if one.mixes:
        pytest.skip("it is given sounds of other rows")
    among = content(at_strength(one, rows, tmp_path / "a", 2)[3])
    alone = content(at_strength(one, rows[3:4], tmp_path / "b", 2)[0])
    assert all(np.array_equal(x, y) for x, y in zip(among, alone, strict=True))


def test_distortion_grows_with_strength(one: Perturbation, rows: list[Sample], tmp_path: Path) -> None:
    means = [
        np.mean([
            distance(row, changed)
            for row, changed in zip(rows, at_strength(one, rows, tmp_path, strength), strict=True)
        ])
        for strength in range(STRONGEST + 1)
    ]  # fmt: skip
    assert means[0] == 0
    assert (np.diff(means) > 0).all(), means


def test_answer_and_groups_stay_and_only_its_own_kind_of_part_changes(
    one: Perturbation, rows: list[Sample], tmp_path: Path
) -> None:
    kind = {"picture": Image, "samples": Sound, "text": Text}[one.takes]
    for before, after in zip(rows, at_strength(one, rows, tmp_path, STRONGEST), strict=True):
        assert (after.answer, after.groups, after.where) == (before.answer, before.groups, before.where)
        assert after.turns[0] == before.turns[0]
        for old, new in zip(before.turns[1].parts, after.turns[1].parts, strict=True):
            assert (old == new) != isinstance(old, kind)


def test_sizes_stay_and_lengths_are_sane(one: Perturbation, rows: list[Sample], tmp_path: Path) -> None:
    for before, after in zip(rows, at_strength(one, rows, tmp_path, STRONGEST), strict=True):
        for old, new in zip(content(before), content(after), strict=True):
            if isinstance(old, str):
                assert new.strip()
                assert len(new) < 400 + 2 * len(old)
            elif one.name == "speed" and old.ndim == 1:
                assert 0.5 < len(new) / len(old) < 2
            else:
                assert old.shape == new.shape
                assert np.isfinite(new).all()
                assert np.abs(new).max() > 0


def test_a_row_of_another_kind_is_left_alone(one: Perturbation, rows: list[Sample], tmp_path: Path) -> None:
    turn = {
        "picture": Turn(role="user", parts=rows[0].turns[1].parts[1:]),
        "samples": Turn(role="user", parts=rows[0].turns[1].parts[::2]),
        "text": Turn(role="user", parts=rows[0].turns[1].parts[:2]),
    }[one.takes]
    other = Sample(turns=(turn, rows[0].turns[-1]))
    assert not one.concerns(other)
    assert one.concerns(rows[0])
    assert at_strength(one, [other], tmp_path, STRONGEST)[0] is other


def test_silence_and_a_single_letter_are_taken(one: Perturbation, tmp_path: Path) -> None:
    save_sound(tmp_path / "silence.wav", np.zeros(800, dtype=np.float32), RATE)
    Pictures.new("RGB", (9, 8), "black").save(tmp_path / "dot.png")
    parts = (
        Image(path=tmp_path / "dot.png"),
        Sound(path=tmp_path / "silence.wav"),
        Text(text="a"),
    )
    row = Sample(turns=(Turn(role="user", parts=parts),))
    (made,) = at_strength(one, [row], tmp_path / "out", STRONGEST)
    assert all(np.isfinite(each).all() for each in content(made) if not isinstance(each, str))


def test_an_unknown_name_and_strength_are_told(rows: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'blur'"):
        perturbation("blurr")
    with pytest.raises(ConfigError, match="from 0 to 5, not 6"):
        at_strength(perturbation("blur"), rows, tmp_path, 6)

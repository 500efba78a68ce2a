"""Rendered pairs differ in what is varied, and in nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes import counterfactual
from studio.config import from_dict
from studio.data import load_data
from studio.errors import ConfigError
from studio.log import QuietLog
from studio.types import Sample

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def made(folder: Path, **settings: object) -> list[Sample]:
    counterfactual.run(from_dict(counterfactual.Config, {"output": str(folder), **settings}), QuietLog())
    return load_data(folder, split="test")


def test_a_cloth_is_woven_again_in_another_colour_with_the_same_defect(tmp_path: Path) -> None:
    rows = made(tmp_path, domain="textiles", sides=("red", "blue"), count=6)
    assert [row.groups["colour"] for row in rows] == ["red", "blue"] * 6
    for red, blue in zip(rows[::2], rows[1::2], strict=True):
        assert red.groups["pair"] == blue.groups["pair"]
        assert (red.answer, red.groups["defect"]) == (blue.answer, blue.groups["defect"])
        one, other = (np.asarray(Image.open(row.images[0].path), float).mean((0, 1)) for row in (red, blue))
        assert one[0] > other[0] + 40
        assert other[2] > one[2] + 40
    assert len({row.answer for row in rows}) > 2


def test_the_same_seed_makes_the_same_rows_and_pictures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name, sides=("red", "black"), count=2, seed=3)
    assert (tmp_path / "one/test.jsonl").read_bytes() == (tmp_path / "two/test.jsonl").read_bytes()
    for picture in (tmp_path / "one/test").iterdir():
        assert picture.read_bytes() == (tmp_path / "two/test" / picture.name).read_bytes()


@needs_espeak
@pytest.mark.parametrize(("domain", "vary"), [("commands", "accent"), ("helpdesk", "speaker")])
def test_a_sentence_is_said_again_by_another_voice(domain: str, vary: str, tmp_path: Path) -> None:
    sides = ("en-us", "en-gb-scotland") if vary == "accent" else ("m5", "f3")
    rows = made(tmp_path, domain=domain, vary=vary, sides=sides, count=2)
    other = {"accent": "speaker", "speaker": "accent"}[vary]
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one.groups["said"] == two.groups["said"]
        assert one.answer == two.answer
        assert one.groups[other] == two.groups[other]
        assert (one.groups[vary], two.groups[vary]) == sides
        assert one.sounds[0].path.read_bytes() != two.sounds[0].path.read_bytes()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"domain": "handwriting"}, "unknown domain to render again 'handwriting'"),
        ({"vary": "color"}, "textiles: unknown group to vary 'color'; did you mean 'colour'"),
        ({"sides": ("red", "blak")}, "unknown colour 'blak'; did you mean 'black'"),
        ({"sides": ("red",)}, "sides must name at least two of"),
        ({"count": 0}, "count must be at least 1"),
    ],
)
def test_what_cannot_be_rendered_is_said_before_anything_is_written(
    settings: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_run_says_what_it_made(tmp_path: Path) -> None:
    made(tmp_path, sides=("red", "black", "white"), count=2)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["metrics"] == {"sets": 2.0, "rows": 6.0}

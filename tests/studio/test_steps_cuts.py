from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.data.steps._cuts import best_place, may_be_cut
from tests.studio.planted import pictures


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    files = []
    for number, picture in enumerate(pictures(4, 6, 0)):
        files.append(folder / f"{number}.png")
        picture.save(files[-1])
    return files


def cut(file: Path, share: float, to: Path, **how: int) -> Path:
    picture = Image.open(file)
    wide, high = (round(edge * share) for edge in picture.size)
    left, top = (picture.width - wide) // 3, (picture.height - high) // 2
    picture.crop((left, top, left + wide, top + high)).save(to, **how)
    return to


@pytest.mark.parametrize("share", [0.95, 0.9, 0.8, 0.7])
def test_a_part_is_found_at_its_place_and_no_part_of_another_picture_is(
    originals: list[Path], tmp_path: Path, share: float
) -> None:
    for number, file in enumerate(originals):
        part = cut(file, share, tmp_path / f"{number}.png")
        figures = [best_place(whole, part) for whole in originals]
        assert figures[number] > 0.9999
        assert max(figures[:number] + figures[number + 1 :]) < 0.95
        assert best_place(file, cut(file, share, tmp_path / f"{number}.jpg", quality=90)) > 0.9


def test_a_large_picture_is_looked_at_in_a_smaller_copy(originals: list[Path], tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    Image.open(originals[0]).resize((2000, 1500), Image.Resampling.BICUBIC).save(big)
    assert best_place(big, cut(big, 0.9, tmp_path / "part.png")) > 0.99


def test_what_is_no_part_by_its_size_or_has_no_detail_is_none(tmp_path: Path) -> None:
    assert may_be_cut((100, 80), (90, 80))
    assert may_be_cut((100, 80), (60, 48))
    assert not may_be_cut((100, 80), (100, 80))
    assert not may_be_cut((100, 80), (59, 80))
    assert not may_be_cut((100, 80), (90, 81))
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    Image.fromarray(np.arange(2500, dtype=np.uint8).reshape(50, 50)).save(tmp_path / "wave.png")
    assert best_place(tmp_path / "wave.png", tmp_path / "red.png") == 0
    assert best_place(tmp_path / "red.png", tmp_path / "wave.png") == 0
    assert best_place(tmp_path / "gone.png", tmp_path / "red.png") == 0

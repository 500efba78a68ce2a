"""What every data format must keep, found by discovery: a new file in studio/data/formats is tested."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Pictures

from studio import plugins
from studio.data import load_data
from studio.data.formats import convert, detect
from studio.errors import DataError, TriptychError
from studio.files import folder_hash
from studio.media import save_sound

NAMES = plugins.names("formats")
SPOILT = 140
ROW = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image", "path": "media/a.png"}, {"type": "text", "text": "What?"}],
        },
        {"role": "assistant", "content": "A carpet."},
    ],
    "groups": {"site": "north"},
    "weight": 2.0,
    "source": "made up",
    "license": "CC0-1.0",
    "id": "7",
    "extra": {"deep": {"er": [1, None]}},
}


@pytest.fixture(scope="module", params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("formats", request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row about one picture, and in another folder one about one sound."""
    root = tmp_path_factory.mktemp("data")
    for kind in ("picture", "sound"):
        (root / kind / "media").mkdir(parents=True)
        row = json.dumps(ROW)
        if kind == "picture":
            Pictures.new("RGB", (8, 8), "red").save(root / kind / "media" / "a.png")
        else:
            save_sound(root / kind / "media" / "a.wav", np.zeros(80, np.float32), 8_000)
            row = row.replace("a.png", "a.wav").replace('"image"', '"audio"')
        (root / kind / "train.jsonl").write_text(row + "\n")
    return root


def source(name: str, data: Path) -> Path:
    """The row that this format is tested with."""
    return data / ("sound" if name == "audiofolder" else "picture")


def test_every_peer_that_is_promised_is_there() -> None:
    rows = {"alpaca", "axolotl", "llava", "ms_swift", "sharegpt", "triptych", "trl"}
    assert rows | {"arrow", "audiofolder", "csv", "folder", "imagefolder", "tsv", "webdataset"} <= set(NAMES)


def test_a_format_has_the_three_functions_and_says_what_it_keeps_and_refuses(module: ModuleType) -> None:
    assert list(inspect.signature(module.detect).parameters) == ["path"]
    assert list(inspect.signature(module.read).parameters) == ["path", "ledger"]
    assert list(inspect.signature(module.write).parameters) == ["samples", "folder", "split", "ledger"]
    assert hasattr(module, "SUFFIXES") or hasattr(module, "splits")
    assert re.search(r"[Rr]efused|[Nn]othing is lost", inspect.getdoc(module) or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_row_with_everything_goes_out_and_comes_back_and_the_source_is_as_it_was(
    name: str, data: Path, tmp_path: Path
) -> None:
    place = source(name, data)
    before = folder_hash(place)
    there = convert(place, tmp_path / "there", name)
    back = convert(tmp_path / "there", tmp_path / "back", "triptych")
    assert back.source in (name, "triptych" if name == "axolotl" else name)
    assert back.why
    assert folder_hash(place) == before
    assert (there.splits, back.splits) == ({"train": 1}, {"train": 1})
    (one,), (other,) = load_data(place), load_data(tmp_path / "back", "train")
    for field in ("groups", "weight", "source", "license", "id", "extra"):
        assert getattr(other, field) == getattr(one, field)
    assert [turn.text for turn in other.turns] == [turn.text for turn in one.turns]
    (medium,), (kept,) = one.images or one.sounds, other.images or other.sounds
    assert kept.path.read_bytes() == medium.path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_path_leaves_the_folder_and_nothing_else_is_left_beside_it(
    name: str, data: Path, tmp_path: Path
) -> None:
    convert(source(name, data), tmp_path / "out", name)
    assert os.listdir(tmp_path) == ["out"]
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if file.is_symlink()]
    told = b"".join(file.read_bytes() for file in files if file.suffix in (".json", ".jsonl", ".csv", ".tsv"))
    assert str(tmp_path).encode() not in told
    assert str(data).encode() not in told


@pytest.mark.parametrize("name", NAMES)
def test_every_damage_to_what_was_written_is_one_sentence(name: str, data: Path, tmp_path: Path) -> None:
    convert(source(name, data), tmp_path / "whole", name)
    files = [
        f for f in sorted((tmp_path / "whole").rglob("*")) if f.is_file() and f.suffix not in (".png", ".wav")
    ]
    draw = np.random.default_rng(7)
    for at in range(SPOILT):
        file = files[at % len(files)]
        whole = file.read_bytes()
        spoilt = bytearray(whole)
        for _ in range(int(draw.integers(1, 4))):
            place = int(draw.integers(0, max(len(spoilt), 1)))
            match at % 4:
                case 0:
                    spoilt[place : place + 1] = bytes(draw.integers(0, 256, 1, dtype=np.uint8))
                case 1:
                    del spoilt[place:]
                case 2:
                    spoilt[place:place] = b'"\xff{[,'
                case _:
                    del spoilt[place : place + 5]
        file.write_bytes(spoilt)
        out = tmp_path / f"out{at}"
        refused = False
        try:
            convert(tmp_path / "whole", out, "triptych", source=name)
        except TriptychError:  # anything else fails the test
            refused = True
        assert refused != out.exists()
        file.write_bytes(whole)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_taken_for_a_format_that_it_is_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n")
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert plugins.load("formats", name).detect(tmp_path) is None
    with pytest.raises(DataError, match="looks like none"):
        detect(tmp_path)

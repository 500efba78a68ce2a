"""triptych preview --augment: each step side by side, on one page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.cli import main
from studio.assets import asset

STEPS = """
seed: 3
augment:
  - crop: {share: [0.5, 0.6]}
  - flip: {labels: "none of [hole]", otherwise: skip}
  - swap: {}
"""


@pytest.fixture
def textiles(tmp_path: Path) -> Path:
    """Return a folder with three rows of the shipped textiles, of which the second says 'hole'."""
    source = asset("data/textiles")
    (tmp_path / "test").mkdir()
    lines = (source / "test.jsonl").read_text().splitlines()[:3]
    assert ["hole" in line for line in lines] == [False, True, False]
    for line in lines:
        name = json.loads(line)["messages"][0]["content"][0]["path"]
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.jsonl"


def test_the_page_shows_rows_as_they_are_each_step_and_two_epochs(textiles: Path, tmp_path: Path) -> None:
    steps, page = tmp_path / "steps.yaml", tmp_path / "page.html"
    steps.write_text(STEPS)
    assert main(["preview", str(textiles), "--augment", str(steps), "--html", str(page), "-n", "2"]) == 0
    text = page.read_text()
    titles = re.findall(r"<b>([^<]+)<", text)
    assert titles == ["as it is", "crop", "flip", "swap", "epoch 1", "epoch 2"] * 2
    assert "crop, flip, swap; seed 3" in text
    assert "not done: it says &#x27;hole&#x27;" in text
    pictures = re.findall(r'class="picture" alt="picture" src="([^"]+)"', text)
    assert len(pictures) == 12
    plain, cropped, flipped, swapped, first, second = pictures[:6]
    assert plain == swapped
    assert len({plain, cropped, flipped, first, second}) == 5
    assert pictures[6] == pictures[8], "the row that says 'hole' is not mirrored"
    assert "<mark>" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text), "nothing is loaded from elsewhere"
    assert not list(tmp_path.rglob("*.bmp"))


def test_sounds_can_be_played_and_features_are_seen_with_a_model(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    steps, page = tmp_path / "run.json", tmp_path / "page.html"
    listed = [{"speed": {"factor": [0.5, 0.5]}}, {"specaugment": {}}]
    steps.write_text(json.dumps({"config": {"augment": listed, "seed": 0}}))
    line = ["preview", "commands", "--augment", str(steps), "--html", str(page), "-n", "1"]
    assert main([*line, "--model", str(tiny("qwen_omni"))]) == 0
    text = page.read_text()
    assert text.count("<audio") == 5
    assert text.count('class="features"') == 5
    seconds = [float(found) for found in re.findall(r"<small>([\d.]+) s</small>", text)]
    assert seconds[1] == pytest.approx(2 * seconds[0], abs=0.02)
    assert seconds[2] == seconds[0]


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("augment: [{blurr: {}}]", "did you mean 'blur'?"),
        ("data: textiles\nseed: 1", "there is no 'augment' in it"),
        ("a: 1\naugment: [{flip: {labels: none of [left]}}]", "steps.yaml:2: not valid YAML: expected"),
        ("augment: [{speed: {}}]", "it changes a sound, and no row has one"),
    ],
)
def test_mistakes_are_one_sentence_and_no_page(
    textiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str, sentence: str
) -> None:
    (tmp_path / "steps.yaml").write_text(steps)
    line = ["preview", str(textiles), "--augment", str(tmp_path / "steps.yaml")]
    assert main([*line, "--html", str(tmp_path / "page.html")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
    assert main(["preview", str(textiles)]) == 2
    assert "--model must be given" in capsys.readouterr().err
    assert main(line) == 2
    assert "--augment needs --html FILE" in capsys.readouterr().err

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.lmms.media import placed
from apps.lmms.task import write_task
from studio.assets import find_data, find_model
from studio.data import load_data
from studio.errors import ConfigError, DataError
from studio.media import load_sound, save_sound
from studio.types import Image, Sample, Sound, Text, Turn


def test_media_in_memory_become_files_that_hold_the_same(tmp_path: Path) -> None:
    from PIL import Image as Pictures

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = placed(Pictures.fromarray(pixels), tmp_path)
    assert isinstance(picture, Image)
    with Pictures.open(picture.path) as held:
        assert (np.asarray(held) == pixels).all()
    assert placed(Pictures.fromarray(pixels), tmp_path) == picture
    wave = np.linspace(-1.0, 1.0, 800, dtype=np.float32)
    sound = placed({"type": "audio", "array": wave, "sampling_rate": 16_000}, tmp_path)
    assert isinstance(sound, Sound)
    assert (load_sound(sound.path, 16_000) == wave).all(), "samples were rounded"
    both = placed({"array": np.stack([wave, wave]), "sampling_rate": 16_000}, tmp_path)
    assert both.path.read_bytes() == sound.path.read_bytes()


def test_media_in_files_stay_where_they_are_and_bytes_keep_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    save_sound(file, np.zeros(100, np.float32), 16_000)
    assert placed(str(file), tmp_path) == Sound(path=file)
    assert placed({"type": "image", "url": "a"}, tmp_path) == Image(path=Path("a").absolute())
    held = placed({"bytes": file.read_bytes(), "path": "b.wav"}, tmp_path / "media")
    assert isinstance(held, Sound)
    assert held.path.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("medium", ["clip.mp4", "https://example.com/a.png", 3, {"url": None}, io.BytesIO()])
def test_what_cannot_be_shown_is_told(medium: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be shown"):
        placed(medium, tmp_path)


def test_rows_that_a_task_cannot_show_are_refused_with_their_place(tmp_path: Path) -> None:
    user = Turn(role="user", parts=(Text(text="Look:"), Image(path=tmp_path / "a.png")))
    said = Turn(role="assistant", parts=(Text(text="yes"),))
    row = Sample(turns=(user, said), file=tmp_path / "rows.jsonl", line=3)
    with pytest.raises(DataError, match=r"rows.jsonl:3: text stands before a medium"):
        write_task([row], tmp_path, "a")
    with pytest.raises(DataError, match="no answer"):
        write_task([Sample(turns=(user,))], tmp_path, "a")
    with pytest.raises(ConfigError, match="no name for a task"):
        write_task([row], tmp_path, "a/b")
    assert not list(tmp_path.iterdir())


def bench() -> str:
    """Return the Python of an environment that has lmms-eval: `make lmms` says how it is made."""
    return os.environ.get("TRIPTYCH_LMMS_PYTHON", "")


@pytest.mark.slow
@pytest.mark.skipif(
    not bench(), reason="TRIPTYCH_LMMS_PYTHON names no Python with lmms-eval: see `make lmms`"
)
@pytest.mark.parametrize("interface", ["chat", "simple"])
def test_lmms_eval_finds_what_we_find_on_pictures_and_sounds(interface: str, tmp_path: Path) -> None:
    from apps.cli import main
    from studio.outside_results import read_outside

    names = ("handwriting", "commands", "helpdesk")
    rows = [row for name in names for row in load_data(find_data(name), split="test")[:4]]
    write_task(rows, tmp_path / "tasks", "ours")
    expected = []
    for name in names:
        main(["eval", "nano-omni", "--data", name, "--limit", "4", "--out", str(tmp_path / name)])
        told = (tmp_path / name / "samples.jsonl").read_text().splitlines()
        expected += [json.loads(line)["output"] for line in told]
    line = [
        bench(),
        "-m",
        "lmms_eval",
        "--model",
        "triptych",
        "--model_args",
        f"variant={find_model('nano-omni')}",
    ]
    line += ["--include_path", str(tmp_path / "tasks"), "--tasks", "ours", "--log_samples"]
    line += [
        "--output_path",
        str(tmp_path / "results"),
        *(["--force_simple"] if interface == "simple" else []),
    ]
    own = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(line, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = read_outside(tmp_path / "results")
    assert [each.output for each in found.answers] == expected
    (theirs,) = [each.value for each in found.figures if each.metric == "exact_match"]
    assert main(["scores", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    ((ours,),) = [
        [cell["value"] for key, cell in each.items() if key == "ours.exact_match"] for each in scores.values()
    ]
    assert ours == theirs
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)


def test_the_commands_start_without_lmms_eval() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import apps.lmms.entry, apps.lmms.task, sys; sys.exit('lmms_eval' in sys.modules)",
        ],
        check=False,
    )
    assert told.returncode == 0

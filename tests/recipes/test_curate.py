from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from recipes.curate import Config, run
from studio.data import load_data
from studio.data.formats import convert
from studio.data.rows import row_of
from studio.errors import ConfigError, DataError
from studio.files import folder_hash
from studio.log import QuietLog

STEPS = ("normalise", {"exact_duplicates": {"strict": False}}, "image_duplicates", "personal_data", "leakage")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def row(asked: str, answer: str, picture: str = "", **more: Any) -> str:
    parts: list[dict[str, str]] = [{"type": "image", "path": picture}] if picture else []
    messages = [
        {"role": "user", "content": [*parts, {"type": "text", "text": asked}]},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages, **more})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a set of two splits with something for each step, written as no writer of ours would."""
    from PIL import Image

    folder = tmp_path / "raw"
    (folder / "media").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"media/{name}.png")
    Image.open(folder / "media/a.png").save(folder / "media/a.jpg", quality=60)
    train = [
        row("What is it?", "A carpet.", "media/a.png", id="first"),
        "",
        '{ "messages":[{"content":"Who  wrote?","role":"user"},'
        '{"role":"assistant","content":"anna@example.org"}]}',
        row("What is it?", "A carpet.", "media/a.jpg"),
        row("who wrote", "Anna@Example.org!"),
        " \t",
        row("What is it?", "A cloth.", "media/b.png", groups={"site": "1"}, weight=2.0),
        row("Hello?", "Hello ümlaut there."),
    ]
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(train).encode() + b"\n\n")
    (folder / "test.jsonl").write_text(row("Which is it?", "Cloth.", "media/b.png"))
    return folder


def curate(raw: Path, out: Path, *steps: Any, **more: Any) -> dict[str, Any]:
    run(Config(data=str(raw), output=out, steps=steps or STEPS, **more), QuietLog())
    return json.loads((out / "curate.json").read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_every_row_that_goes_or_changes_is_told_with_its_place_and_reason(raw: Path, tmp_path: Path) -> None:
    report = curate(raw, tmp_path / "out")
    gone = lines(tmp_path / "out/undo/removed.jsonl")
    changed = lines(tmp_path / "out/undo/changes.jsonl")
    assert [(one["file"], one["row"], one["step"]) for one in gone] == [
        ("train.jsonl", 4, "image_duplicates"),
        ("train.jsonl", 5, "exact_duplicates"),
        ("train.jsonl", 7, "leakage"),
    ]
    assert [one["reason"].partition("(")[0].strip() for one in gone] == [
        "nearly the picture of line 1",
        "says the same as line 3",
        "nearly a picture of test.jsonl:1",
    ]
    assert [(one["row"], [step["step"] for step in one["steps"]]) for one in changed] == [
        (3, ["normalise", "personal_data"])
    ]
    assert (report["rows"], report["kept"], report["removed"], report["changed"]) == (7, 4, 3, 1)
    assert [step["removed"] for step in report["steps"]] == [0, 1, 1, 0, 1]
    kept = load_data(tmp_path / "out", "train")
    assert [sample.answer for sample in kept] == ["A carpet.", "[EMAIL]", "Hello ümlaut there."]
    assert not (tmp_path / "out/media/a.jpg").exists()
    assert [sample.id for sample in kept] == ["first", "", ""]


@pytest.mark.parametrize("media", ["link", "copy"])
def test_undo_gives_the_input_back_byte_for_byte(raw: Path, tmp_path: Path, media: Any) -> None:
    before = folder_hash(raw)
    report = curate(raw, tmp_path / "out", media=media)
    if media == "copy":
        shutil.rmtree(raw / "media")
    run(Config(undo=tmp_path / "out", output=tmp_path / "back"), QuietLog())
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "back" / name).read_bytes() == (raw / name).read_bytes()
    assert {file.name for file in (tmp_path / "back/media").iterdir()} == {"a.png", "a.jpg", "b.png"}
    if media == "link":
        assert folder_hash(tmp_path / "back") == before == folder_hash(raw)
    assert report["removed"] == 3


def test_parquet_is_curated_and_its_rows_come_back(raw: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    convert(raw, table, "parquet")
    before = folder_hash(table)
    report = curate(table, tmp_path / "out")
    rows = curate(raw, tmp_path / "lines")
    assert [report[name] for name in ("rows", "kept", "removed", "changed")] == [
        rows[name] for name in ("rows", "kept", "removed", "changed")
    ]
    assert {one["file"] for one in lines(tmp_path / "out/undo/removed.jsonl")} == {"train.jsonl"}
    run(Config(undo=tmp_path / "out", output=tmp_path / "back"), QuietLog())
    for split in ("train", "test"):
        found = load_data(tmp_path / "back", split)
        assert [row_of(one, tmp_path / "back") for one in found] == [
            row_of(one, table) for one in load_data(table, split)
        ]
    assert folder_hash(table) == before


def test_undo_refuses_a_set_that_was_changed_since(raw: Path, tmp_path: Path) -> None:
    curate(raw, tmp_path / "out")
    file = tmp_path / "out/train.jsonl"
    file.write_text(file.read_text().replace("carpet", "rug"))
    with pytest.raises(DataError, match=r"train\.jsonl or its undo folder was changed since"):
        run(Config(undo=tmp_path / "out", output=tmp_path / "back"), QuietLog())
    assert not (tmp_path / "back").exists()
    with pytest.raises(DataError, match=r"has no undo/undo\.json"):
        run(Config(undo=raw, output=tmp_path / "back"), QuietLog())


ROWS = st.lists(
    st.one_of(
        st.builds(lambda a, b: row(a or "?", b or "!"), st.text(max_size=12), st.text(max_size=12)),
        st.sampled_from(["", " ", "\t\u00a0", row("same", "same"), row("same ", "same")]),
    ),
    min_size=1,
    max_size=8,
)


ENDS = st.lists(st.sampled_from(["\n", "\r\n", "\r\r\n"]), min_size=8, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, ends=ENDS, last=st.booleans(), mark=st.booleans())
def test_any_file_comes_back(
    rows: list[str], ends: list[str], last: bool, mark: bool, tmp_path: Path
) -> None:
    folder = tmp_path / f"any-{time.monotonic_ns()}"
    (folder / "raw").mkdir(parents=True)
    text = "".join(line + end for line, end in zip(rows, ends, strict=False))
    raw = (b"\xef\xbb\xbf" if mark else b"") + (text if last else text.rstrip("\r\n")).encode()
    (folder / "raw/train.jsonl").write_bytes(raw)
    try:
        curate(folder / "raw", folder / "out", "normalise", "exact_duplicates", {"length": {"max_words": 3}})
    except DataError:  # no row, or none that is left
        assume(False)
    run(Config(undo=folder / "out", output=folder / "back"), QuietLog())
    assert (folder / "back/train.jsonl").read_bytes() == raw


def test_a_split_of_which_no_row_is_left_is_no_file_and_comes_back(raw: Path, tmp_path: Path) -> None:
    (raw / "train.jsonl").write_bytes((raw / "test.jsonl").read_bytes() + b"\n")
    report = curate(raw, tmp_path / "out", "leakage")
    assert report["files"]["train.jsonl"]["kept"] == 0
    assert not (tmp_path / "out/train.jsonl").exists()
    run(Config(undo=tmp_path / "out", output=tmp_path / "back"), QuietLog())
    assert (tmp_path / "back/train.jsonl").read_bytes() == (raw / "train.jsonl").read_bytes()


def test_rows_that_no_step_touches_are_the_very_bytes_of_the_input(raw: Path, tmp_path: Path) -> None:
    curate(raw, tmp_path / "out", "exact_duplicates")
    odd = '{ "messages":[{"content":"Who  wrote?","role":"user"},'
    assert any(line.startswith(odd) for line in (tmp_path / "out/train.jsonl").read_text().splitlines())


def test_a_killed_run_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "raw"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(300):
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    pictures = (row(f"What  is {at}?", "Noise.", f"{at}.png") for at in range(300))
    (folder / "train.jsonl").write_text("\n".join(pictures))
    steps = ("normalise", "image_duplicates")
    given = ["data=raw", "output=out", f"steps={','.join(steps)}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.cli", "run", "curate", *(one.replace("=raw", f"={folder}").replace(
            "=out", f"={tmp_path / 'out'}") for one in given)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("looking at pictures"):
            break
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()

    said: list[str] = []

    class Log(QuietLog):
        def say(self, message: str) -> None:
            said.append(message)

    run(Config(data=str(folder), output=tmp_path / "out", steps=steps), Log())
    assert [line.split()[-1] for line in said if line.startswith("normalise")] == ["before"]
    run(Config(data=str(folder), output=tmp_path / "straight", steps=steps, resume=False), QuietLog())
    for name in ("train.jsonl", "curate.json", "undo/changes.jsonl", "undo/undo.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_finished_set_is_known_and_another_one_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    curate(raw, tmp_path / "out", "normalise")
    stamp = (tmp_path / "out/train.jsonl").stat().st_mtime_ns
    curate(raw, tmp_path / "out", "normalise")
    assert (tmp_path / "out/train.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="holds another run: steps"):
        curate(raw, tmp_path / "out", "personal_data")
    (raw / "test.jsonl").write_text(row("Which is it?", "Another.", "media/b.png"))
    with pytest.raises(ConfigError, match="holds another run"):
        curate(raw, tmp_path / "out", "normalise")


def test_places_that_would_lose_something_are_refused(raw: Path, tmp_path: Path) -> None:
    before = folder_hash(raw)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    for output, sentence in (
        (raw, "take the place"),
        (tmp_path, "take the place"),
        (tmp_path / "mine", "exists"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            curate(raw, output, "normalise")
    assert folder_hash(raw) == before
    assert (tmp_path / "mine/letter.txt").read_text() == "keep"
    with pytest.raises(DataError, match=r"no row of .* would be left"):
        curate(raw, tmp_path / "out", {"length": {"min_words": 50}})
    assert not (tmp_path / "out").exists()


def test_settings_come_from_a_file(raw: Path, tmp_path: Path) -> None:
    from apps.cli import main

    file = tmp_path / "curate.yaml"
    file.write_text(
        f"data: {raw}\noutput: {tmp_path / 'out'}\nsteps:\n  - normalise\n"
        "  - balance: {group: site, mitigate: weight, label: none}\n"
    )
    assert main(["run", "curate", "--config", str(file)]) == 0
    report = json.loads((tmp_path / "out/curate.json").read_text())
    assert report["steps"][1]["report"]["train.jsonl"]["counts"] == {"1": 1}
    assert main(["run", "curate", f"data={raw}", "steps=nothing"]) == 2

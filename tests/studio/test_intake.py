"""Data sets of people who are no engineers: any format in, rows to train on out, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio import families
from studio.data import load_data
from studio.data.archive import unpack
from studio.data.findings.check import check_before_training
from studio.data.intake import take_in
from studio.errors import DataError
from studio.log import QuietLog

LOG = QuietLog()


def row(i: int, picture: str = "") -> str:
    asked: list[dict[str, str]] = [{"type": "text", "text": f"what is {i}?"}]
    if picture:
        asked.insert(0, {"type": "image", "path": picture})
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{i} it is"}]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    folder = tmp_path / "sent"
    folder.mkdir()
    return folder


def test_every_tenth_row_is_held_out_and_the_rest_can_be_trained_on(sent: Path, tmp_path: Path) -> None:
    (sent / "inner").mkdir()
    (sent / "inner/mine.jsonl").write_text("".join(row(i) for i in range(40)))
    taken = take_in(sent, tmp_path / "out", None, LOG)
    assert (taken.learned, taken.held_out, taken.left_out) == (36, 4, 0)
    assert taken.told == "36 rows to learn from, 4 held out to measure with"
    rows = [load_data(tmp_path / "out", split=split) for split in ("train", "test")]
    assert sorted(sample.answer for split in rows for sample in split) == sorted(
        f"{i} it is" for i in range(40)
    )
    assert check_before_training([*rows[0], *rows[1]], LOG) == {}
    again = take_in(sent, tmp_path / "again", None, LOG)
    assert load_data(again.folder / "test.jsonl")[0].answer == rows[1][0].answer
    assert (sent / "inner/mine.jsonl").is_file()


def test_wrong_rows_are_left_out_and_told_with_their_place(
    sent: Path, tmp_path: Path, tiny: Callable[[str], Path], shared_folder: Path, questions: object
) -> None:
    questions("qwen_omni", 1)  # type: ignore[operator]
    shutil.copy(shared_folder / "media/0.png", sent / "good.png")
    (sent / "torn.png").write_bytes((sent / "good.png").read_bytes()[:200])
    lines = [row(0, "good.png"), row(1, "torn.png"), row(2, "gone.png"), "{\n", row(0, "good.png"), row(5)]
    (sent / "train.jsonl").write_text("".join(lines))
    taken = take_in(sent, tmp_path / "out", families.gauge(tiny("qwen_omni")), LOG)
    assert (taken.learned, taken.held_out, taken.left_out) == (2, 0, 4)
    assert {(finding.row, finding.kind) for finding in taken.report.findings} == {
        (2, "truncated"), (3, "missing"), (4, "row"), (5, "duplicate_row"),
    }  # fmt: skip
    assert taken.pictures
    assert not taken.sounds
    assert {sample.answer for sample in taken.examples} == {"0 it is", "5 it is"}


def test_a_table_and_a_folder_of_pictures_are_data_too(
    sent: Path, tmp_path: Path, shared_folder: Path, questions: object
) -> None:
    questions("qwen_omni", 1)  # type: ignore[operator]
    (sent / "t.csv").write_text("question,answer\nhello,world\nbye,now\n")
    assert take_in(sent, tmp_path / "table", None, LOG).learned == 2
    (sent / "t.csv").unlink()
    for i in range(4):
        (sent / f"all/{'hole' if i % 2 else 'seam'}").mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_folder / f"media/{i}.png", sent / f"all/{'hole' if i % 2 else 'seam'}/{i}.png")
    taken = take_in(sent, tmp_path / "pictures", None, LOG)
    assert taken.format == "imagefolder"
    assert {sample.answer for sample in load_data(tmp_path / "pictures/train.jsonl")} == {"hole", "seam"}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse longer files, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(sent: Path, tmp_path: Path) -> None:
    (sent / "train.jsonl").write_text("".join(row(i) for i in range(400)))
    archive = shutil.make_archive(str(tmp_path / "sent"), "zip", sent)
    (tmp_path / "sets").mkdir()
    with files_of_at_most(20_000), pytest.raises(OSError, match="File too large"):
        take_in(sent, tmp_path / "sets/out", None, LOG)
    with files_of_at_most(20_000), pytest.raises(OSError, match="File too large"):
        unpack(Path(archive), tmp_path / "sets/out")
    assert os.listdir(tmp_path / "sets") == []
    assert unpack(Path(archive), tmp_path / "sets/in") == 1
    assert take_in(tmp_path / "sets/in", tmp_path / "sets/out", None, LOG).learned == 360


def test_splits_of_other_names_become_train_and_test(sent: Path, tmp_path: Path) -> None:
    (sent / "a.jsonl").write_text(row(1) + row(2))
    (sent / "b.jsonl").write_text(row(3))
    (sent / "validation.jsonl").write_text(row(4) + row(1))
    taken = take_in(sent, tmp_path / "out", None, LOG)
    assert (taken.learned, taken.held_out) == (2, 2)  # what stands in both is learned no more
    assert not list((tmp_path / "out").glob("[ab]*"))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "a.csv",
            "foo,bar\n1,2\n",
            "'a.csv' holds nothing that can be learned from: rows of JSON need messages",
        ),
        (
            "a.csv",
            "question,answer\na,\nb,\n",
            "none of the 2 rows can be learned from: 2 x nothing in the row",
        ),
        ("a.txt", "hello", "holds nothing that can be learned from"),
        ("train.jsonl", "{}\n[]\n", "none of the 2 rows can be learned from: 2 x the line is no row"),
        ("train.jsonl", "", "holds"),
    ],
)
def test_what_is_no_data_is_told_and_nothing_is_written(
    name: str, text: str, sentence: str, sent: Path, tmp_path: Path
) -> None:
    (sent / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        take_in(sent, tmp_path / "sets/out", None, LOG)
    assert not (tmp_path / "sets").exists() or not list((tmp_path / "sets").iterdir())

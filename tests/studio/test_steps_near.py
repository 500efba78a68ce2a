from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from studio.cache import Kept
from studio.data import load_data
from studio.data.steps._step import Bench, read_steps
from studio.log import QuietLog
from tests.studio import planted

RECALL, PRECISION = 0.95, 0.98


def found_in(folder: Path, step: str, kinds: dict[int, str]) -> tuple[float, float, Counter[str]]:
    """Return precision and recall over small edits, and what was found by kind."""
    [made] = read_steps([step])
    bench = Bench(log=QuietLog(), kept=Kept(folder / "cache"))
    removed = [edit.at[1] for edit in made.run(load_data(folder), made.settings, bench).edits]
    found = Counter(kinds[line] for line in removed if line in kinds)
    right = sum(count for kind, count in found.items() if kind not in planted.HARD)
    wanted = sum(kind not in planted.HARD for kind in kinds.values())
    false = sum(line not in kinds for line in removed)
    return right / max(1, right + false), right / wanted, found


def test_small_edits_of_texts_are_found_and_other_texts_are_not(tmp_path: Path) -> None:
    precision, recall, found = found_in(tmp_path, "text_duplicates", planted.plant_texts(tmp_path, 400))
    assert precision >= PRECISION
    assert recall >= RECALL
    assert found["paraphrase"] < 0.2 * 80  # what the docstring says it is not made for


def test_re_encoded_and_edited_pictures_are_found_and_others_are_not(tmp_path: Path) -> None:
    edits = {name: edit for name, edit in planted.PICTURE_EDITS.items() if name != "twice the size"}
    things = planted.pictures(15, 15, 15)
    precision, recall, found = found_in(
        tmp_path, "image_duplicates", planted.plant_media(tmp_path, things, edits, "image")
    )
    assert precision >= PRECISION
    assert recall >= RECALL
    assert found["crop to 95 %"] >= 0.5 * len(things)


def test_re_encoded_and_stretched_sounds_are_found_and_others_are_not(tmp_path: Path) -> None:
    kinds = planted.plant_media(tmp_path, planted.sounds(15), planted.SOUND_EDITS, "audio")
    precision, recall, _ = found_in(tmp_path, "sound_duplicates", kinds)
    assert precision >= PRECISION
    assert recall >= RECALL


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Please set the big lamp to 40 percent now.", "Please set the big lamp to 50 percent now."),
        ("Please do open the window in the kitchen.", "Please do not open the window in the kitchen."),
        ("The motor on the left side is running hot.", "The motor on the right side is running hot."),
    ],
)
def test_texts_that_differ_in_what_counts_are_no_duplicates(tmp_path: Path, one: str, other: str) -> None:
    rows = [[one, "I have done it."], [other, "I have done it."], [f"{one} ", "I have done it"]]
    planted.write(tmp_path, rows)
    [made] = read_steps(["text_duplicates"])
    bench = Bench(log=QuietLog(), kept=Kept(tmp_path / "cache"))
    edits = made.run(load_data(tmp_path), made.settings, bench).edits
    assert [edit.at[1] for edit in edits] == [3]
    assert "line 1" in edits[0].reason


def test_one_picture_with_two_answers_is_reported_and_stays(tmp_path: Path) -> None:
    things = planted.pictures(2, 0, 0)
    edits = {"JPEG 50": planted.PICTURE_EDITS["JPEG 50"]}
    planted.plant_media(tmp_path, things, edits, "image")
    rows = load_data(tmp_path)
    turn = rows[2].turns[-1]
    rows[2] = replace(
        rows[2], turns=(rows[2].turns[0], replace(turn, parts=(replace(turn.parts[0], text="Else."),)))
    )
    [made] = read_steps(["image_duplicates"])
    outcome = made.run(rows, made.settings, Bench(log=QuietLog(), kept=Kept(tmp_path / "cache")))
    assert [edit.at[1] for edit in outcome.edits] == [4]
    assert outcome.report["for instance"] == ["train.jsonl:3 and 1"]


def test_training_rows_that_a_test_split_holds_are_taken_from_train(tmp_path: Path) -> None:
    things = planted.pictures(6, 0, 0)
    planted.plant_media(tmp_path, things, {"JPEG 50": planted.PICTURE_EDITS["JPEG 50"]}, "image")
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "test.jsonl").write_text("".join(lines[:3]))
    (tmp_path / "train.jsonl").write_text("".join(lines[4:]).replace("What is it?", "Tell me."))
    rows = [*load_data(tmp_path, "test"), *load_data(tmp_path, "train")]
    [made] = read_steps(["leakage"])
    outcome = made.run(rows, made.settings, Bench(log=QuietLog(), kept=Kept(tmp_path / "cache")))
    assert [edit.at for edit in outcome.edits] == [(tmp_path / "train.jsonl", line) for line in (3, 4, 5)]
    assert all("test.jsonl" in edit.reason for edit in outcome.edits)

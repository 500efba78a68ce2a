"""Data files: what a row may hold, and that every wrong row is named with file, line and remedy."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from studio.data import check_data, check_media, check_modalities, load_data, samples, write_jsonl
from studio.data.index import Rows
from studio.data.parquet import columns, schema
from studio.errors import DataError, MediaError
from studio.log import QuietLog
from studio.media import save_sound
from studio.types import Family, Image, Sample, Sound, Text, Turn


def ask(*parts: object, answer: str = "yes", **more: object) -> dict[str, object]:
    """A row whose user says ``parts``."""
    messages = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


PLAIN = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
SAY = [{"role": "assistant", "content": "yes"}]
OPEN = {"messages": [{"role": "user", "content": "hi"}]}
PICTURE = {"type": "image", "path": "media/a.png"}
SOUND = {"type": "audio", "path": "media/a.wav"}


def write(folder: Path, *rows: object, name: str = "train.jsonl") -> Path:
    """Write rows, given as objects or as raw lines."""
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def error(folder: Path, *rows: object) -> str:
    """The sentence that these rows are refused with."""
    path = write(folder, *rows)
    with pytest.raises(DataError) as caught:
        load_data(path)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one whole picture and one whole sound."""
    (tmp_path / "media").mkdir()
    Pictures.new("RGB", (16, 16), "red").save(tmp_path / "media" / "a.png")
    save_sound(tmp_path / "media" / "a.wav", np.zeros(1600, np.float32), 16_000)
    return tmp_path


def family(*modalities: str) -> Family:
    """A family of which only the name and the modalities matter."""

    def never(*_: object) -> object:
        raise AssertionError("a check of data loads no model")

    return Family(
        name="narrow",
        model_types=(),
        modalities=frozenset(modalities),  # type: ignore[arg-type]
        load=never,  # type: ignore[arg-type]
        encode=never,  # type: ignore[arg-type]
        collate=never,  # type: ignore[arg-type]
        decode=never,  # type: ignore[arg-type]
        towers={},
        lora_targets={},
        tiny=never,  # type: ignore[arg-type]
    )


def test_a_row_becomes_a_sample_with_its_place(folder: Path) -> None:
    text = {"type": "text", "text": "what?"}
    path = write(folder, "", ask(PICTURE, SOUND, text, groups={"who": "A"}, weight=2))
    (sample,) = load_data(path)
    assert sample.where == f"{path}:2"
    assert sample.images == (Image(path=folder / "media" / "a.png"),)
    assert sample.sounds == (Sound(path=folder / "media" / "a.wav"),)
    assert sample.turns[0].parts[2] == Text(text="what?")
    assert (sample.answer, sample.groups, sample.weight) == ("yes", {"who": "A"}, 2.0)


def test_a_turn_may_be_left_out_of_the_loss(tmp_path: Path) -> None:
    row = json.loads(json.dumps(PLAIN))
    row["messages"][1]["loss"] = False
    (sample,) = load_data(write(tmp_path, row))
    assert [turn.loss for turn in sample.turns] == [True, False]


def test_a_row_may_hold_a_preference_and_where_it_comes_from(tmp_path: Path) -> None:
    no = [{"role": "assistant", "content": "no"}, {"role": "user", "content": "sure?"}, *SAY]
    about = {"source": "made up", "license": "CC0-1.0", "id": "7", "extra": {"tag": [1, None]}}
    (sample,) = load_data(write(tmp_path, {**OPEN, "chosen": SAY, "rejected": no, **about}))
    assert [turn.text for turn in sample.chosen] == ["yes"]
    assert [turn.role for turn in sample.rejected] == ["assistant", "user", "assistant"]
    assert {name: getattr(sample, name) for name in about} == about
    write_jsonl(tmp_path / "b.jsonl", [sample])
    assert json.loads((tmp_path / "b.jsonl").read_text()) == {**OPEN, "chosen": SAY, "rejected": no, **about}


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    write(tmp_path, PLAIN, PLAIN, name="train.jsonl")
    assert len(load_data(tmp_path)) == 2
    write(tmp_path, PLAIN, name="test.jsonl")
    assert len(load_data(tmp_path, "test")) == 1
    with pytest.raises(DataError, match="name a split: test, train"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="unknown split 'tset'; did you mean 'test'"):
        load_data(tmp_path, "tset")
    with pytest.raises(DataError, match=r"does not exist; .*did you mean 'train'"):
        load_data(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"holds no \.jsonl or \.parquet file"):
        load_data(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[1]", "row must be an object"),
        ("[" * 100_000, "not valid JSON (too deep"),
        ('{"weight": ' + "1" * 5000 + "}", "not valid JSON"),
        ({}, "'messages' must be a list with at least one message"),
        ({"messages": []}, "'messages' must be a list with at least one message"),
        (
            {"mesages": []},
            "unknown key 'mesages'; did you mean 'messages'? known: chosen, extra, groups, id, ",
        ),
        ({**PLAIN, "wieght": 1}, "unknown key 'wieght'; did you mean 'weight'?"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "unknown role 'usr'; did you mean 'user'?"),
        ({"messages": [{"role": "user", "text": "x"}]}, "unknown key 'text'; did you mean 'content'?"),
        ({"messages": [{"role": "user", "content": 3}]}, "'content' must be a string or a list"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0] is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no message has the role 'user'"),
        ({"messages": [*PLAIN["messages"], {"role": "system", "content": "x"}]}, "only the first message"),
        ({"messages": [{"role": "user", "content": "x", "loss": "no"}]}, "'loss' must be true or false"),
        (ask("hi"), "messages[0].content[0] must be an object"),
        (ask({"type": "img", "path": "a"}), "unknown part type 'img'; did you mean 'image'?"),
        (ask({"type": "image", "file": "a"}), "unknown key 'file'; known: path, type"),
        (ask({"type": "image"}), "a part of type 'image' needs 'path'"),
        (ask({"type": "image", "path": 3}), "'path' must be a string"),
        (ask({"type": "image", "path": "/etc/passwd"}), "'/etc/passwd' is absolute"),
        (ask({"type": "image", "path": "../a.png"}), "'../a.png' leads out of the data file's folder"),
        (ask({"type": "image", "path": "media/../../a.png"}), "leads out of"),
        (ask({"type": "image", "path": ".."}), "leads out of"),
        (ask({"type": "image", "path": ""}), "is empty"),
        (ask({"type": "image", "path": "a\0b"}), "zero byte"),
        (ask({"type": "text", "text": "\ud800"}), "surrogate"),
        (ask({"type": "image", "path": "\ud800/x\ud800"}), "surrogate"),
        (
            {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": [PICTURE]}]},
            "content is text",
        ),
        ({**PLAIN, "weight": "1"}, "'weight' must be a number"),
        ({**PLAIN, "weight": True}, "'weight' must be a number"),
        ({**PLAIN, "weight": -1}, "finite number above 0, not -1.0"),
        ({**PLAIN, "weight": float("nan")}, "finite number above 0"),
        ({**PLAIN, "weight": 10**400}, "finite number above 0"),
        ({**PLAIN, "groups": ["a"]}, "'groups' must be an object with strings"),
        ({**PLAIN, "groups": {"a": 1}}, "'groups' must be an object with strings"),
        ({**PLAIN, "id": 3}, "'id' must be a string that is not empty"),
        ({**PLAIN, "license": ""}, "'license' must be a string that is not empty"),
        ({**PLAIN, "source": "\udcff"}, "surrogate"),
        ({**PLAIN, "extra": []}, "'extra' must be an object"),
        ({**PLAIN, "extra": {"a": float("inf")}}, "holds a number that is not finite"),
        ({**PLAIN, "extra": {"a": "\udcff"}}, "surrogate"),
        ({**PLAIN, "chosen": [], "rejected": []}, "must end with the user"),
        ({**OPEN, "chosen": SAY}, "'rejected' is missing; 'chosen' and 'rejected' stand together"),
        ({**OPEN, "chosen": [], "rejected": SAY}, "'chosen' must be a list with at least one message"),
        ({**OPEN, "chosen": SAY, "rejected": OPEN["messages"]}, "rejected[0] must have the role 'assistant'"),
        (
            {**OPEN, "chosen": [*SAY, {"role": "system", "content": "x"}], "rejected": SAY},
            "chosen[1]: only the first",
        ),
        (
            {**OPEN, "chosen": [*SAY, {"role": "user", "content": [PICTURE]}], "rejected": SAY},
            "chosen[1]: 'chosen' is text; media stand in 'messages'",
        ),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_what_is_allowed(
    tmp_path: Path, row: object, sentence: str
) -> None:
    said = error(tmp_path, PLAIN, row)
    assert said.startswith(f"{tmp_path / 'train.jsonl'}:2: ")
    assert sentence in said
    assert "\n" not in said


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "own.png").write_bytes((folder / "media" / "a.png").read_bytes())
    (data / "in.png").symlink_to(data / "own.png")
    (data / "out.png").symlink_to(folder / "media" / "a.png")
    (data / "away").symlink_to(folder / "media")
    (sample,) = load_data(write(data, ask({"type": "image", "path": "in.png"})))
    assert sample.images[0].path == data / "own.png"
    for name in ("out.png", "away/a.png"):
        assert "leads out of" in error(data, ask({"type": "image", "path": name}))


def test_bytes_that_are_not_text_are_named_and_a_byte_order_mark_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PLAIN).encode() + b"\r\n")
    assert len(load_data(path)) == 1
    path.write_bytes(json.dumps(PLAIN).encode() + b'\n{"messages\xff')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not UTF-8 at byte 11"):
        load_data(path)


def test_a_file_without_line_breaks_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.data.jsonl.LONGEST", 200)
    said = error(tmp_path, PLAIN, "x" * 1000, PLAIN)
    assert said == f"{tmp_path / 'train.jsonl'}:2: the line is longer than 200 bytes"


def test_all_wrong_rows_are_told_together_the_first_ten_in_full(tmp_path: Path) -> None:
    said = error(tmp_path, PLAIN, *[{}] * 14, PLAIN)
    assert said.startswith("14 of 16 rows are wrong:")
    assert said.count("train.jsonl:") == 10
    assert said.endswith("and 4 more")


def test_nothing_is_yielded_after_a_wrong_row(tmp_path: Path) -> None:
    stream = samples(write(tmp_path, PLAIN, {}, PLAIN))
    assert next(stream).line == 1
    with pytest.raises(DataError):
        next(stream)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert "holds no samples" in error(tmp_path, "", "  ")
    with pytest.raises(DataError, match="cannot be read"):
        next(samples(tmp_path))


_words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
_parts = st.one_of(
    st.builds(Text, text=_words),
    st.sampled_from([Image(path=Path("media/a.png")), Sound(path=Path("media/a.wav"))]),
)
_turns = st.tuples(
    st.builds(Turn, role=st.just("user"), parts=st.lists(_parts, min_size=1, max_size=4).map(tuple)),
    st.builds(
        Turn, role=st.just("assistant"), parts=st.tuples(st.builds(Text, text=_words)), loss=st.booleans()
    ),
)


@given(_turns, st.dictionaries(_words, _words, max_size=2), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, turns: tuple[Turn, ...], groups: dict[str, str], weight: float
) -> None:
    root = tmp_path_factory.mktemp("round")

    def placed(turn: Turn) -> Turn:
        parts = tuple(p if isinstance(p, Text) else type(p)(path=root / p.path) for p in turn.parts)
        return Turn(role=turn.role, parts=parts, loss=turn.loss)

    sample = Sample(turns=tuple(map(placed, turns)), groups=groups, weight=weight)
    assert write_jsonl(root / "a.jsonl", [sample]) == 1
    (back,) = load_data(root / "a.jsonl")
    assert (back.turns, back.groups, back.weight) == (sample.turns, groups, weight)


def test_a_medium_outside_the_folder_is_not_written_and_the_old_file_stays(folder: Path) -> None:
    (sample,) = load_data(write(folder, ask(PICTURE)))
    inner = folder / "inner"
    write_jsonl(inner / "a.jsonl", [Sample(turns=(Turn(role="user", parts=(Text(text="old"),)),))])
    with pytest.raises(DataError, match="lies outside"):
        write_jsonl(inner / "a.jsonl", [sample])
    assert "old" in (inner / "a.jsonl").read_text()
    assert os.listdir(inner) == ["a.jsonl"]


def test_whole_media_pass_and_each_is_decoded_once(folder: Path) -> None:
    class Count(QuietLog):
        total = 0

        def stage(self, name: str, total: int, unit: str = "samples") -> None:
            self.total = total

    log = Count()
    check_data(load_data(write(folder, *[ask(PICTURE, SOUND)] * 5)), family("text", "image", "audio"), log)
    assert log.total == 2


def test_every_broken_medium_is_named_with_its_first_row_before_training(folder: Path) -> None:
    media = folder / "media"
    picture, sound = (media / "a.png").read_bytes(), (media / "a.wav").read_bytes()
    (media / "zero.png").touch()
    (media / "cut.png").write_bytes(picture[:50])
    (media / "text.png").write_text("hello")
    (media / "cut.wav").write_bytes(sound[:-10])
    (media / "picture.wav").write_bytes(picture)
    reasons = {
        "gone.png": "does not exist",
        "zero.png": "empty",
        "cut.png": "truncated",
        "text.png": "is text, not a picture",
        "cut.wav": "the last 10 bytes are missing",
        "picture.wav": "is a PNG picture, not a sound",
    }
    rows = [
        ask({"type": "audio" if name.endswith("wav") else "image", "path": f"media/{name}"})
        for name in reasons
    ]
    data = load_data(write(folder, ask(PICTURE), *rows, *rows))
    with pytest.raises(MediaError) as caught:
        check_media(data, QuietLog())
    head, *lines = str(caught.value).splitlines()
    assert head == "6 of 7 media files are wrong:"
    for number, (line, (name, reason)) in enumerate(zip(lines, reasons.items(), strict=True), start=2):
        assert line.strip().startswith(f"{folder / 'train.jsonl'}:{number}: ")
        assert name in line
        assert reason in line


def test_a_family_that_lacks_a_modality_says_so_with_file_and_line(folder: Path) -> None:
    data = load_data(write(folder, ask(PICTURE), ask(SOUND)))
    with pytest.raises(
        DataError, match=r"train\.jsonl:2: family 'narrow' takes no audio; allowed: image, text"
    ):
        check_modalities(data, family("text", "image"))


def test_rows_are_read_at_random_and_the_index_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.data.index.MARKS", 8)
    lines = [json.dumps({**PLAIN, "id": str(number)}) for number in range(50)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f"{line}\n" if number % 3 else line for number, line in enumerate(lines)))
    rows, whole = Rows(path), load_data(path)
    assert len(rows) == 50
    assert rows.step == 8
    assert [rows[at] for at in range(50)] == list(rows) == whole
    assert [row.id for row in rows[-3:]] == ["47", "48", "49"]
    with pytest.raises(IndexError):
        rows[50]
    path.write_text("")
    with pytest.raises(DataError, match="was changed while it was in use"):
        rows[0]


def test_parquet_rows_are_the_same_rows(folder: Path) -> None:
    more = {"groups": {"who": "A"}, "weight": 2, "license": "CC0-1.0", "extra": {"deep": [1, {"a": None}]}}
    rows = [PLAIN, ask(PICTURE, SOUND, {"type": "text", "text": "what?"}, **more)]
    rows.append({**OPEN, "chosen": SAY, "rejected": [{"role": "assistant", "content": "no", "loss": False}]})
    table = pa.Table.from_pylist([columns(row) for row in rows], schema=schema())
    pq.write_table(table, folder / "b.parquet")
    for plain, back in zip(load_data(write(folder, *rows)), load_data(folder, "b"), strict=True):
        assert back == dataclasses.replace(plain, file=folder / "b.parquet")
    pq.write_table(table, folder / "b.parquet", row_group_size=2)
    indexed = Rows(folder / "b.parquet")
    assert [indexed[at] for at in (-1, 0, 1)] == [load_data(folder, "b")[at] for at in (-1, 0, 1)]


def test_a_wrong_parquet_row_is_named_and_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [None, None], "id": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:2: 'messages' must be a list"):
        load_data(tmp_path)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet' (is damaged|cannot be read)"):
        load_data(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps(PLAIN))
    with pytest.raises(DataError, match=r"holds a\.jsonl and a\.parquet; keep one"):
        load_data(tmp_path)

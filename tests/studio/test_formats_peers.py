"""Each peer's documented layout is recognised and understood, and `datasets` reads what is written for it."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pictures

from studio.data import load_data
from studio.data.formats import convert
from studio.errors import DataError
from studio.media import save_sound
from studio.types import Sample, Text


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two pictures and a sound, as a peer's data would lie in it."""
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Pictures.new("RGB", (8, 8), colour).save(root / "media" / name)
    save_sound(root / "media" / "c.wav", np.zeros(80, np.float32), 8_000)
    return root


def converted(data: Path, *, file: str = "", rows: Any = None, **options: Any) -> tuple[str, list[Sample]]:
    """Write rows into ``file``, convert the folder to our rows, and return its format and its samples."""
    if file:
        text = json.dumps(rows) if file.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (data / file).write_text(text)
    out = data.parent / "out"
    done = convert(data, out, "triptych", **options)
    return done.source, [sample for split in done.splits for sample in load_data(out, split)]


def shape(sample: Sample) -> list[tuple[str, list[str]]]:
    """Roles, and parts as text or as the name of the medium's file."""
    return [(t.role, [p.text if isinstance(p, Text) else p.path.name for p in t.parts]) for t in sample.turns]


ASKED = [("user", ["a.png", "What is this?"]), ("assistant", ["A carpet."])]


def test_llama_factory_sharegpt_with_a_system_sound_and_a_preference(data: Path) -> None:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "<image><audio>What is asked?"},
                {"from": "gpt", "value": "The colour."},
                {"from": "human", "value": "And here?<image>"},
            ],
            "system": "You are brief.",
            "images": ["media/a.png", "media/b.png"],
            "audios": ["media/c.wav"],
            "chosen": {"from": "gpt", "value": "Blue."},
            "rejected": {"from": "gpt", "value": "A cat."},
        }
    ]
    name, (sample,) = converted(data, file="mllm_demo.json", rows=rows)
    assert name == "sharegpt"
    assert shape(sample) == [
        ("system", ["You are brief."]),
        ("user", ["a.png", "c.wav", "What is asked?"]),
        ("assistant", ["The colour."]),
        ("user", ["And here?", "b.png"]),
    ]
    assert (sample.chosen[0].text, sample.rejected[0].text) == ("Blue.", "A cat.")


def test_llama_factory_columns_and_tags_are_those_of_dataset_info(data: Path) -> None:
    info = {
        "demo": {
            "file_name": "demo.json",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "images": "pictures"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "U", "assistant_tag": "A"},
        }
    }
    (data / "dataset_info.json").write_text(json.dumps(info))
    talk = [{"role": "U", "content": "<image>What is this?"}, {"role": "A", "content": "A carpet."}]
    name, (sample,) = converted(data, file="demo.json", rows=[{"talk": talk, "pictures": ["media/a.png"]}])
    assert (name, shape(sample)) == ("sharegpt", ASKED)


def test_llama_factory_alpaca_with_input_and_history(data: Path) -> None:
    row = {
        "instruction": "Translate.",
        "input": "<image>carpet",
        "output": "Teppich",
        "system": "You translate.",
        "history": [["Hello.", "Good day."]],
        "images": ["media/a.png"],
    }
    name, (sample,) = converted(data, file="alpaca.json", rows=[row])
    assert name == "alpaca"
    convert(data.parent / "out", data.parent / "again", "sharegpt")
    told = json.loads((data.parent / "again" / "dataset_info.json").read_text())["alpaca"]
    assert (told["file_name"], told["formatting"], told["ranking"]) == ("alpaca.jsonl", "sharegpt", False)
    assert set(told["columns"]) == {"messages", "system", "images"}  # and none that no row has
    assert shape(sample) == [
        ("system", ["You translate."]),
        ("user", ["Hello."]),
        ("assistant", ["Good day."]),
        ("user", ["Translate.\n", "a.png", "carpet"]),
        ("assistant", ["Teppich"]),
    ]


def test_ms_swift_with_loss_by_turn_and_a_rejected_way(data: Path) -> None:
    asked = [
        {"role": "user", "content": "<image>What is this?"},
        {"role": "assistant", "content": "Well.", "loss": False},
        {"role": "user", "content": "<audio>?"},
    ]
    row = {
        "messages": [*asked, {"role": "assistant", "content": "A carpet."}],
        "rejected_messages": [*asked, {"role": "assistant", "content": "A cat."}],
        "images": ["media/a.png"],
        "audios": ["media/c.wav"],
    }
    short = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
        "rejected_response": "no",
    }
    name, (sample, other) = converted(data, file="swift.jsonl", rows=[row, short])
    assert name == "ms_swift"
    assert shape(sample)[2] == ("user", ["c.wav", "?"])
    assert [turn.loss for turn in sample.turns] == [True, False, True]
    assert (sample.chosen[0].text, sample.rejected[0].text) == ("A carpet.", "A cat.")
    assert (len(other.turns), other.chosen[0].text, other.rejected[0].text) == (1, "yes", "no")


def test_trl_prompt_and_completion_learn_the_completion_only(data: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Good day."}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
        ],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": "A carpet."}]}],
        "images": ["media/a.png"],
    }
    name, (sample,) = converted(data, file="train.jsonl", rows=[row])
    assert name == "trl"
    assert shape(sample)[2:] == ASKED
    assert [turn.loss for turn in sample.turns] == [True, False, True, True]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
        {
            "chosen": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "No."}],
        },
    ],
)
def test_trl_preferences_with_and_without_a_prompt_of_their_own(data: Path, row: dict[str, Any]) -> None:
    name, (sample,) = converted(data, file="train.jsonl", rows=[row])
    assert name == "trl"
    assert shape(sample) == [("user", ["Is it?"])]
    assert (sample.chosen[0].text, sample.rejected[0].text) == ("Yes.", "No.")


def test_trl_pictures_without_a_place_stand_before_the_first_question(data: Path) -> None:
    messages = [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A carpet."}]
    row = {"messages": messages, "images": ["media/a.png"]}
    name, (sample,) = converted(data, file="train.jsonl", rows=[row])
    assert (name, shape(sample)) == ("trl", ASKED)


def test_llava_with_its_pictures_in_a_folder_elsewhere(data: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A carpet."}]
    rows = [{"id": "7", "image": "a.png", "conversations": talk}, {"id": "8", "conversations": _plain()}]
    media = data / "media"
    name, (sample, text) = converted(data, file="llava.json", rows=rows, media=media)
    assert (name, sample.id, text.id) == ("llava", "7", "8")
    assert shape(sample) == [("user", ["a.png", "\nWhat is this?"]), ("assistant", ["A carpet."])]
    absolute = {"id": "9", "image": str(media / "a.png"), "conversations": talk}
    (data.parent / "out").rename(data.parent / "old")
    assert len(converted(data, file="llava.json", rows=[absolute], media=media)[1]) == 1


def _plain() -> list[dict[str, str]]:
    return [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Good day."}]


def test_axolotl_typed_parts_by_path_and_base64(data: Path) -> None:
    inline = base64.b64encode((data / "media" / "b.png").read_bytes()).decode()
    content = [{"type": "image", "base64": inline}, {"type": "audio", "path": "media/c.wav"}]
    messages = [
        {"role": "user", "content": [*content, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Blue."}], "train": False},
    ]
    name, (sample,) = converted(data, file="axolotl.jsonl", rows=[{"messages": messages}])
    assert name == "axolotl"
    assert sample.images[0].path.read_bytes() == (data / "media" / "b.png").read_bytes()
    assert [turn.loss for turn in sample.turns] == [True, False]


def test_a_folder_of_pictures_with_captions(data: Path) -> None:
    (data / "media" / "a.txt").write_text("A carpet.\n")
    (data / "media" / "b.txt").write_text("A rug.")
    (data / "media" / "c.txt").write_text("Good morning.")
    name, samples = converted(data)
    assert name == "folder"
    assert shape(samples[0]) == [("user", ["a.png"]), ("assistant", ["A carpet."])]
    assert [sample.answer for sample in samples] == ["A carpet.", "A rug.", "Good morning."]


@pytest.mark.parametrize(
    ("name", "header", "cells", "shown"),
    [
        (
            "csv",
            ["Question", "Answer", "Image", "site"],
            ["What is this?", "A carpet.", "media/a.png", "north"],
            ASKED,
        ),
        ("csv", ["text", "label"], ["so soft", "good"], [("user", ["so soft"]), ("assistant", ["good"])]),
        (
            "tsv",
            ["client_id", "path", "sentence"],
            ["x1", "media/c.wav", 'He said "no".'],
            [("user", ["c.wav"]), ("assistant", ['He said "no".'])],
        ),
    ],
)
def test_a_table_is_understood_by_the_names_of_its_columns(
    data: Path, name: str, header: list[str], cells: list[str], shown: object
) -> None:
    quoted = [f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in cells]
    mark = "," if name == "csv" else "\t"
    (data / f"train.{name}").write_text(f"{mark.join(header)}\n{mark.join(quoted)}\n")
    found, (sample,) = converted(data)
    assert (found, shape(sample)) == (name, shown)
    if "site" in header:
        assert sample.extra == {"site": "north"}


def test_an_imagefolder_with_metadata_and_one_with_classes(data: Path) -> None:
    (data / "media" / "c.wav").unlink()
    (data / "media" / "metadata.csv").write_text(
        "file_name,text,site\na.png,A carpet.,north\nb.png,A rug.,south\n"
    )
    name, samples = converted(data / "media")
    assert name == "imagefolder"
    assert [(sample.answer, sample.extra["site"]) for sample in samples] == [
        ("A carpet.", "north"),
        ("A rug.", "south"),
    ]
    classes = data / "more" / "classes"
    for label, file in (("carpet", "a.png"), ("rug", "b.png")):
        (classes / "train" / label).mkdir(parents=True)
        (data / "media" / file).rename(classes / "train" / label / file)
    name, samples = converted(classes)
    assert (name, [sample.answer for sample in samples]) == ("imagefolder", ["carpet", "rug"])


def test_an_audiofolder_with_metadata_lines_and_splits(data: Path) -> None:
    for split in ("train", "test"):
        (data / split / "clips").mkdir(parents=True)
        (data / split / "clips" / "1.wav").write_bytes((data / "media" / "c.wav").read_bytes())
        row = {"file_name": "clips/1.wav", "transcription": f"Good {split}."}
        (data / split / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    for file in (data / "media").iterdir():
        file.unlink()
    (data / "media").rmdir()
    name, samples = converted(data)
    assert (name, [sample.answer for sample in samples]) == ("audiofolder", ["Good test.", "Good train."])


def test_webdataset_shards_of_pictures_with_texts_classes_and_json(data: Path) -> None:
    picture = (data / "media" / "a.png").read_bytes()
    members = [
        {"sub/0.png": picture, "sub/0.txt": b"A carpet."},
        {"sub/1.png": picture, "sub/1.cls": b"rug"},
        {"sub/2.png": picture, "sub/2.json": b'{"caption": "A mat.", "site": "north"}'},
    ]
    for number, files in enumerate(members):
        with tarfile.open(data / f"train-{number:06d}.tar.gz", "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    name, samples = converted(data)
    assert (name, [sample.answer for sample in samples]) == ("webdataset", ["A carpet.", "rug", "A mat."])
    assert samples[2].extra == {"site": "north"}
    assert samples[0].images[0].path.read_bytes() == picture


def test_what_datasets_saves_is_read_with_its_pictures_and_classes(data: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as Pixels

    picture = (data / "media" / "a.png").read_bytes()
    features = Features({"image": Pixels(decode=False), "label": ClassLabel(names=["carpet", "rug"])})
    rows = {"image": [{"bytes": picture, "path": "x.png"}] * 2, "label": [1, 0]}
    saved = data.parent / "saved"
    DatasetDict({"train": Dataset.from_dict(rows, features=features)}).save_to_disk(saved)
    name, samples = converted(saved)
    assert (name, [sample.answer for sample in samples]) == ("arrow", ["rug", "carpet"])
    assert samples[0].images[0].path.read_bytes() == picture


def test_datasets_reads_what_is_written_for_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import DownloadMode, config, load_dataset, load_from_disk

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)  # it would count the download on a server

    row = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "path": "media/a.png"}, {"type": "text", "text": "?"}],
            },
            {"role": "assistant", "content": "A carpet."},
        ],
        "groups": {"site": "north"},
    }
    (data / "train.jsonl").write_text(json.dumps(row) + "\n")
    convert(data, data.parent / "arrow", "arrow")
    back = load_from_disk(data.parent / "arrow")["train"][0]
    assert back["messages"][1]["content"][0]["text"] == "A carpet."
    convert(data, data.parent / "folder", "imagefolder")
    cache = str(data.parent / "cache")
    fresh = DownloadMode.FORCE_REDOWNLOAD
    seen = load_dataset(
        "imagefolder", data_dir=str(data.parent / "folder"), cache_dir=cache, download_mode=fresh
    )
    assert (seen["train"][0]["text"], seen["train"][0]["image"].size) == ("A carpet.", (8, 8))
    convert(data, data.parent / "tar", "webdataset")
    shards = str(data.parent / "tar" / "*.tar")
    seen = load_dataset("webdataset", data_files={"train": shards}, cache_dir=cache, download_mode=fresh)
    assert seen["train"][0]["txt"] == "A carpet."


def test_parquet_of_another_tool_is_understood_by_its_rows(data: Path) -> None:
    picture = (data / "media" / "a.png").read_bytes()
    part = [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]
    messages = [
        {"role": "user", "content": part},
        {"role": "assistant", "content": [{"type": "text", "text": "A carpet."}]},
    ]
    rows = [{"messages": messages, "images": [{"bytes": picture, "path": "a.png"}]}]
    for file in (data / "media").iterdir():
        file.unlink()
    pq.write_table(pa.Table.from_pylist(rows), data / "train-00000-of-00001.parquet")
    name, (sample,) = converted(data)
    assert (name, shape(sample)) == ("trl", ASKED)


def test_what_looks_like_two_formats_or_none_is_asked_about(data: Path) -> None:
    with pytest.raises(DataError, match="looks like none of the formats alpaca, "):
        converted(data)
    (data / "a.csv").write_text("prompt,answer\na,b\n")
    (data / "b.tsv").write_text("prompt\tanswer\na\tb\n")
    with pytest.raises(
        DataError, match=r"looks like csv \(a\.csv has .*\) and tsv \(b\.tsv has .*\); name one"
    ):
        converted(data)
    assert converted(data, source="tsv")[0] == "tsv"

"""Data before step 0: checked, encoded once, hashed by content; and what a run records."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.data.identity import data_hash
from studio.errors import CheckpointError, ConfigError, DataError, MediaError
from studio.families import family, gauge
from studio.log import QuietLog
from studio.runs import differences, find_same, new_record, read_run, write_run
from studio.training import encoding
from studio.training.encoding import encode_samples, open_encoded
from studio.training.tracking import check_tracker, read_metrics
from studio.types import Image, Sample, Sound, Text, Turn

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]


def row(*parts: Any, answer: str = "yes", line: int = 7, loss: bool = True) -> Sample:
    turns = (
        Turn(role="user", parts=(*parts, Text(text="well?"))),
        Turn(role="assistant", parts=(Text(text=answer),), loss=loss),
    )
    return Sample(turns=turns, file=Path("rows.jsonl"), line=line)


@pytest.fixture(scope="module")
def processor(tiny: Tiny) -> Any:
    return gauge(tiny("qwen_omni")).processor


class Counting(QuietLog):
    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.stages.append((name, total))


def encode(tiny: Tiny, processor: Any, samples: list[Sample], folder: Path, **more: Any) -> Counting:
    log = Counting()
    encode_samples(gauge(tiny("qwen_omni")), samples, folder, log, **more)
    return log


def test_encoded_samples_are_the_family_s_own(
    tiny: Tiny, processor: Any, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SHARD", 3)
    kind, samples = family("qwen_omni"), questions("qwen_omni", 7)
    samples[2] = dataclasses.replace(samples[2], weight=0.25)
    encode(tiny, processor, samples, tmp_path)
    data = open_encoded(gauge(tiny("qwen_omni")), samples, tmp_path)
    assert len(data) == 7
    for index, sample in enumerate(samples):
        made = kind.encode(processor, sample, True)
        assert data[index].keys() == made.keys()
        assert all(torch.equal(data[index][key], made[key]) for key in made)
        assert data.lengths[index] == len(made["input_ids"])
        assert data.learned[index] == int((made["labels"] != -100).sum())
    tokens, whole = sum(data.learned), sum(data.learned) - 0.75 * data.learned[2]
    assert data.supervision(range(7)) == pytest.approx(whole)  # a float's rounding
    assert data.supervision([2]) == pytest.approx(data.learned[2] * whole / tokens)


def test_nothing_is_encoded_twice_and_a_changed_medium_is_encoded_again(
    tiny: Tiny, processor: Any, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SHARD", 2)
    picture = tmp_path / "picture.png"
    samples = questions("qwen_omni", 6)
    shutil.copy(samples[1].images[0].path, picture)
    samples[0] = row(Image(path=picture))
    assert encode(tiny, processor, samples, tmp_path / "made").stages[-1] == ("encoding", 6)
    assert encode(tiny, processor, samples, tmp_path / "made").stages == []
    shutil.copy(samples[2].images[1].path, picture)
    assert encode(tiny, processor, samples, tmp_path / "made").stages[-1] == ("encoding", 2)


def test_processes_share_the_encoding(
    tiny: Tiny, processor: Any, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SHARD", 2)
    samples = questions("qwen_omni", 6)
    counts = [encode(tiny, processor, samples, tmp_path, part=(i, 2)).stages[-1][1] for i in range(2)]
    assert counts == [4, 2]
    assert len(open_encoded(gauge(tiny("qwen_omni")), samples, tmp_path)) == 6


def test_data_hash_sees_contents_and_not_names(questions: Questions, tmp_path: Path) -> None:
    samples = questions("qwen_omni", 4)
    moved = tmp_path / "moved.png"
    shutil.copy(samples[1].images[0].path, moved)
    here, there = row(samples[1].images[0]), row(Image(path=moved), line=99)
    assert data_hash([here]) == data_hash([there])
    assert data_hash([here]) != data_hash([dataclasses.replace(here, weight=2.0)])
    assert data_hash([here]) != data_hash([row(samples[2].images[1])])
    assert data_hash([here]) != data_hash([row(samples[1].images[0], answer="no")])
    assert data_hash(samples) != data_hash(samples[::-1])


def test_a_truncated_picture_is_named_with_file_and_line(
    tiny: Tiny, processor: Any, questions: Questions, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(questions("qwen_omni", 2)[1].images[0].path.read_bytes()[:300])
    with pytest.raises(MediaError, match=r"rows\.jsonl:7: .*broken\.png"):
        encode(tiny, processor, [row(Image(path=broken))], tmp_path / "made")


def test_a_missing_sound_is_named_with_file_and_line(tiny: Tiny, processor: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"rows\.jsonl:7: .*none\.wav"):
        encode(tiny, processor, [row(Sound(path=tmp_path / "none.wav"))], tmp_path / "made")


def test_a_modality_that_the_family_does_not_take_is_refused(
    tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    sample = next(sample for sample in questions("qwen_omni", 8) if sample.sounds)
    with pytest.raises(DataError, match="takes no audio"):
        encode_samples(gauge(tiny("smolvlm")), [sample], tmp_path, QuietLog())


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (row(answer="  "), r"rows\.jsonl:7: the assistant's answer is empty"),
        (row(loss=False), r"rows\.jsonl:7: no assistant turn to learn"),
        (Sample(turns=(Turn(role="user", parts=(Text(text="hm"),)),)), "no assistant turn to learn"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    tiny: Tiny, processor: Any, tmp_path: Path, sample: Sample, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        encode(tiny, processor, [sample], tmp_path)


def test_a_row_whose_labels_are_all_masked_is_refused(tiny: Tiny, processor: Any, tmp_path: Path) -> None:
    """A family that masked everything would train on nothing while the loss looks fine."""
    kind = family("qwen_omni")

    def masked(processor: Any, sample: Sample, supervise: bool) -> Any:
        made = kind.encode(processor, sample, supervise)
        return {**made, "labels": torch.full_like(made["labels"], -100)}

    wrong = dataclasses.replace(kind, encode=masked)
    with pytest.raises(DataError, match=r"rows\.jsonl:7: all labels are masked"):
        encode_samples(
            dataclasses.replace(gauge(tiny("qwen_omni")), family=wrong), [row()], tmp_path, QuietLog()
        )
    assert not list(tmp_path.iterdir())


def test_all_wrong_rows_are_told_together(tiny: Tiny, processor: Any, tmp_path: Path) -> None:
    rows = [row(answer="" if line % 2 else "yes", line=line) for line in range(1, 30)]
    with pytest.raises(DataError, match=r"15 of 29 rows are wrong") as caught:
        encode(tiny, processor, rows, tmp_path)
    assert str(caught.value).count("rows.jsonl:") == 10


def test_run_json_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    record = new_record("sft", {"model": "a", "lr": 0.1, "seed": 4}, {"model": "0" * 64})
    write_run(tmp_path, record)
    assert read_run(tmp_path) == record
    assert record.seed == 4
    assert record.versions["torch"] == torch.__version__.partition("+")[0]
    assert read_run(tmp_path / "nowhere") is None
    (tmp_path / "run.json").write_text('{"recipe": "sft"}')
    with pytest.raises(CheckpointError, match="does not describe a run"):
        read_run(tmp_path)


def test_fingerprint_sees_contents_and_settings_but_not_places() -> None:
    def made(recipe: str = "sft", digest: str = "1", processes: int = 1, **config: Any) -> str:
        settings = {"model": "a", "lr": 0.1, "output": "x", **config}
        record = new_record(recipe, settings, {"model": digest}, apart=("output",), processes=processes)
        return record.fingerprint

    assert made() == made(model="elsewhere/a") == made(output="y")
    assert len({made(), made(lr=0.2), made(digest="2"), made("other"), made(processes=2)}) == 5


def test_another_run_in_the_folder_is_refused_with_what_changed(tmp_path: Path) -> None:
    old = new_record("sft", {"model": "a", "lr": 0.1}, {"model": "1"})
    new = new_record("sft", {"model": "a", "lr": 0.2}, {"model": "2"})
    assert differences(old, new) == ["lr 0.2 (was 0.1)", "the contents of model changed"]
    assert find_same(tmp_path, new, None) is None
    with pytest.raises(ConfigError, match="no run to go on with"):
        find_same(tmp_path, new, True)
    write_run(tmp_path, old)
    assert find_same(tmp_path, old, None) == old
    assert find_same(tmp_path, new, False) is None
    with pytest.raises(ConfigError, match=r"holds another run: lr 0\.2 \(was 0\.1\)"):
        find_same(tmp_path, new, None)


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_an_unknown_tracker_is_refused_with_the_nearest_match() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        check_tracker("tensorbord")


def test_a_tracker_whose_package_is_missing_is_refused() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    absent = sorted({str(k) for k in LOGGER_TYPE_TO_CLASS} - {str(k) for k in get_available_trackers()})
    for name in absent:
        with pytest.raises(ConfigError, match=f"'{name}' needs a package: pip install "):
            check_tracker(name)

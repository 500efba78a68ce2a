"""Rows that are too long: what each step of the policy does, by real processors, and media stay whole."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from studio import families
from studio.data.lengths import Rules, rules
from studio.errors import ConfigError, DataError
from studio.families._gauge import Gauge
from studio.log import QuietLog
from studio.media import read_sound, save_sound
from studio.training.encoding import Encoded, encode_samples, open_encoded
from studio.types import Image, Part, Sample, Sound, Text, Turn

Tiny = Callable[[str], Path]
RATE = 16_000


def says(*parts: Part | str) -> Turn:
    return Turn(
        role="user", parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts)
    )


def answers(text: str) -> Turn:
    return Turn(role="assistant", parts=(Text(text=text),))


def row(*turns: Turn, **more: Any) -> Sample:
    return Sample(turns=turns, file=Path("rows.jsonl"), line=7, **more)


def encoded(gauge: Gauge, samples: list[Sample], folder: Path, **settings: Any) -> Encoded:
    chosen = rules(settings)
    encode_samples(gauge, samples, folder, QuietLog(), rules=chosen)
    return open_encoded(gauge, samples, folder, chosen)


def text(gauge: Gauge, data: Encoded, index: int = 0) -> str:
    return str(gauge.processor.tokenizer.decode(data[index]["input_ids"]))


def whole(gauge: Gauge, data: Encoded) -> bool:
    """Whether every row holds as many places for media as the model makes features."""
    lengths = [gauge.length_of(data[index]) for index in range(len(data))]
    return all(length.there == length.wanted for length in lengths)


@pytest.fixture
def picture(tmp_path: Path) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Pictures.fromarray(pixels).save(tmp_path / "large.png")
    return Image(path=tmp_path / "large.png")


def sound(path: Path, seconds: float) -> Sound:
    """A sound whose magnitude tells the time: it rises from 0 to 0.9."""
    time = np.arange(int(seconds * RATE)) / RATE
    save_sound(path, (0.9 * time / seconds * np.sin(2 * np.pi * 300 * time)).astype(np.float32), RATE)
    return Sound(path=path)


def transcript(count: int, each: float = 2.0) -> dict[str, Any]:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return {
        "segments": [
            {"start": at * each, "end": (at + 1) * each, "text": f" {words[at]}"} for at in range(count)
        ]
    }


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm"])
def test_earlier_exchanges_of_text_go_first_and_media_stay(
    tmp_path: Path, tiny: Tiny, picture: Image, name: str
) -> None:
    gauge = families.gauge(tiny(name))
    turns = [
        Turn(role="system", parts=(Text(text="be short"),)),
        says(picture, "what is it?"),
        answers("a cat"),
    ]
    for number in range(6):
        turns += [says(f"question {number}?"), answers(f"answer {number}")]
    sample = row(*turns)
    full = gauge.length(sample).tokens
    last = row(*turns[:3], *turns[-2:])
    for limit in (full, full - 1, gauge.length(last).tokens):
        data = encoded(gauge, [sample], tmp_path / str(limit), max_tokens=limit, policy="fit")
        shown = text(gauge, data)
        assert data.lengths[0] <= limit
        kept = [number for number in range(6) if f"question {number}?" in shown]
        assert kept == list(range(6))[-len(kept) :], "the oldest go first"
        assert "be short" in shown
        assert "a cat" in shown
        assert whole(gauge, data)
        assert len(kept) == {full: 6, full - 1: 5}.get(limit, 1)
        assert data.fitted == ({} if limit == full else {"trimmed": 1})


def test_pictures_get_fewer_pixels_where_the_model_then_needs_fewer_tokens(
    tmp_path: Path, tiny: Tiny, picture: Image
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen_omni"), folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 32**2, "longest_edge": 512**2}
    file.write_text(json.dumps(settings))
    gauge = families.gauge(folder)
    sample = row(says(picture, "what is it?"), answers("a cat"))
    full = gauge.length(sample)
    assert full.there == {"image": 256}
    data = encoded(gauge, [sample], tmp_path / "made", max_tokens=full.tokens - 150, policy="fit")
    assert data.fitted == {"fewer pixels": 1}
    assert data.lengths[0] <= full.tokens - 150
    assert gauge.length_of(data[0]).there["image"] in range(50, 106)
    assert whole(gauge, data)
    assert "a cat" in text(gauge, data)


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm"])
def test_a_model_of_fixed_picture_size_is_not_given_smaller_ones_and_the_row_is_dropped(
    tmp_path: Path, tiny: Tiny, picture: Image, name: str
) -> None:
    gauge = families.gauge(tiny(name))
    rows = [row(says(picture, picture, "what are they?"), answers("cats")), row(says("hm?"), answers("ha"))]
    limit = gauge.length(rows[0]).tokens - 1
    for policy in ("fit", "drop"):
        data = encoded(gauge, rows, tmp_path / policy, max_tokens=limit, policy=policy)
        assert len(data) == 1
        assert data.fitted == {"dropped": 1}
        assert "ha" in text(gauge, data)
    with pytest.raises(DataError, match="all 1 rows are too long for the model and were dropped"):
        encoded(gauge, rows[:1], tmp_path / "none", max_tokens=limit, policy="drop")


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm"])
def test_without_a_policy_a_long_row_is_an_error_with_its_place(
    tmp_path: Path, tiny: Tiny, name: str
) -> None:
    gauge = families.gauge(tiny(name))
    sample = row(says("so many words " * 600), answers("yes"))
    with pytest.raises(DataError, match=r"rows\.jsonl:7: \d+ tokens, allowed are 2048; length\.policy"):
        encoded(gauge, [sample], tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["qwen_omni", "whisper"])
def test_a_long_sound_is_an_error_unless_said_otherwise(tmp_path: Path, tiny: Tiny, name: str) -> None:
    gauge = families.gauge(tiny(name))
    sample = row(says(sound(tmp_path / "long.wav", 31)), answers("one two"))
    with pytest.raises(
        DataError, match=r"rows\.jsonl:7: .*lasts 31\.0 s.* at most (8|30) s; length\.audio may be"
    ):
        encoded(gauge, [sample], tmp_path / "made")


@pytest.mark.parametrize(("name", "window"), [("qwen_omni", 8), ("whisper", 30)])
def test_chunks_are_cut_between_segments_and_keep_their_text(
    tmp_path: Path, tiny: Tiny, name: str, window: int
) -> None:
    gauge = families.gauge(tiny(name))
    each = window / 4 - 0.1
    sample = row(
        says(sound(tmp_path / "long.wav", 10 * each)), answers("all of it"), extra=transcript(10, each)
    )
    sample = dataclasses.replace(sample, weight=0.5)
    data = encoded(gauge, [sample], tmp_path / "made", audio="chunk")
    assert data.fitted == {"chunked": 1}
    labels = [data[index]["labels"] for index in range(len(data))]
    said = [gauge.processor.tokenizer.decode(one[one != -100], skip_special_tokens=True) for one in labels]
    assert [one.strip() for one in said] == ["one two three four", "five six seven eight", "nine ten"]
    assert data.weights == [0.5] * 3
    assert whole(gauge, data)
    peaks = []
    for file in sorted((tmp_path / "made/media").iterdir(), key=lambda file: int(file.stem.split("-")[1])):
        wave, rate = read_sound(file)
        assert len(wave) / rate <= window
        peaks.append((float(abs(wave[:800]).max()), float(abs(wave).max())))
    edges = [0, 4, 8, 10]
    assert peaks == [pytest.approx((0.09 * begin, 0.09 * end), abs=0.02) for begin, end in pairwise(edges)]


@pytest.mark.parametrize("name", ["qwen_omni", "whisper"])
def test_a_cut_sound_keeps_its_beginning_and_what_is_heard_of_its_transcript(
    tmp_path: Path, tiny: Tiny, name: str
) -> None:
    gauge = families.gauge(tiny(name))
    long = sound(tmp_path / "long.wav", 40)
    plain = row(says(long), answers("a fault in the pump"))
    timed = row(says(long), answers("all of it"), extra=transcript(10, 4.0))
    data = encoded(gauge, [plain, timed], tmp_path / "made", audio="cut")
    assert data.fitted == {"cut": 2}
    texts = [
        gauge.processor.tokenizer.decode(
            one["labels"][one["labels"] != -100], skip_special_tokens=True
        ).strip()
        for one in (data[0], data[1])
    ]
    heard = "one two" if name == "qwen_omni" else "one two three four five six seven"
    assert texts == ["a fault in the pump", heard]
    (file,) = (tmp_path / "made/media").iterdir()
    assert len(read_sound(file)[0]) == gauge.max_seconds * RATE
    assert whole(gauge, data)


def test_a_sound_is_split_where_its_row_has_too_many_tokens(tmp_path: Path, tiny: Tiny) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    sample = row(says(sound(tmp_path / "a.wav", 8)), answers("all"), extra=transcript(8, 1.0))
    full = gauge.length(sample).tokens
    data = encoded(gauge, [sample], tmp_path / "made", max_tokens=full - 40, policy="fit", audio="chunk")
    assert data.fitted == {"chunked": 1}
    assert len(data) == 2
    assert max(data.lengths) <= full - 40
    assert whole(gauge, data)


def test_a_whisper_row_of_too_many_words_is_split_or_dropped(tmp_path: Path, tiny: Tiny) -> None:
    """Whisper's decoder has 448 positions, whatever the sound."""
    gauge = families.gauge(tiny("whisper"))
    words = {"segments": [{"start": at, "end": at + 1, "text": "words " * 60} for at in range(8)]}
    long = row(says(sound(tmp_path / "a.wav", 8)), answers("words " * 480), extra=words)
    short = row(says(sound(tmp_path / "b.wav", 1)), answers("yes"))
    with pytest.raises(DataError, match=r"rows\.jsonl:7: context and answer have"):
        encoded(gauge, [long, short], tmp_path / "error")
    data = encoded(gauge, [long, short], tmp_path / "dropped", policy="fit")
    assert (len(data), data.fitted) == (1, {"dropped": 1})
    data = encoded(gauge, [long, short], tmp_path / "split", policy="fit", audio="chunk")
    assert data.fitted == {"chunked": 1}
    assert len(data) > 2
    assert max(data.lengths) <= 448


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"extra": {}}, r"its transcript is needed, as 'segments' in the row's 'extra'"),
        ({"extra": {"segments": [{"start": 0}]}}, r"segments\[0\] needs 'start' and 'end'"),
        ({"extra": {"segments": [{"start": 3, "end": 2, "text": "a"}]}}, r"segments\[0\] must begin"),
        ({"extra": {"segments": [{"start": 0, "end": 9, "text": "a"}]}}, r"lasts 9\.0 s, at most 8 s fit"),
        ({"extra": {"segments": [{"start": 0, "end": 2, "text": " "}]}}, "are empty"),
        ({"turns": 2}, "only a row of one sound and one answer can be chunked"),
    ],
)
def test_what_cannot_be_chunked_is_told_with_its_place(
    tmp_path: Path, tiny: Tiny, change: dict[str, Any], sentence: str
) -> None:
    turns = (says(sound(tmp_path / "long.wav", 20)), answers("all"))
    sample = row(*turns, extra=transcript(10))
    change = {"turns": turns * 2} if "turns" in change else change
    with pytest.raises(DataError, match=rf"rows\.jsonl:7.*{sentence}"):
        encoded(
            families.gauge(tiny("qwen_omni")),
            [dataclasses.replace(sample, **change)],
            tmp_path,
            audio="chunk",
        )


def test_rows_that_fit_are_encoded_as_they_are_whatever_the_rules(
    tmp_path: Path, tiny: Tiny, questions: Callable[..., list[Sample]]
) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    samples = questions("qwen_omni", 6)
    plain = encoded(gauge, samples, tmp_path / "plain")
    fitted = encoded(gauge, samples, tmp_path / "fit", policy="fit", audio="cut", max_tokens=1000)
    assert (fitted.fitted, fitted.lengths, fitted.weights) == ({}, plain.lengths, plain.weights)
    for index in range(6):
        assert all(torch.equal(plain[index][key], fitted[index][key]) for key in plain[index])


def test_other_rules_or_another_transcript_encode_again(tmp_path: Path, tiny: Tiny) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    sample = row(says(sound(tmp_path / "long.wav", 20)), answers("all"), extra=transcript(10))
    encoded(gauge, [sample], tmp_path / "made", audio="chunk")
    encoded(gauge, [sample], tmp_path / "made", audio="chunk")
    assert len(list((tmp_path / "made").glob("*.safetensors"))) == 1
    encoded(gauge, [sample], tmp_path / "made", audio="cut")
    other = dataclasses.replace(sample, extra=transcript(9))
    encoded(gauge, [other], tmp_path / "made", audio="chunk")
    assert len(list((tmp_path / "made").glob("*.safetensors"))) == 3


def test_all_that_is_wrong_about_the_rules_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        rules({"polcy": "fit", "audio": "chunks", "max_tokens": -1})
    told = str(caught.value)
    assert "did you mean 'policy'" in told
    assert "length.audio: unknown choice 'chunks'; did you mean 'chunk'" in told
    assert "length.max_tokens must be a whole number, 0 or more, not -1" in told
    assert rules({}) == Rules()

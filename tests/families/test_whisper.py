from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from studio.errors import DataError, MediaError
from studio.families.whisper import FAMILY
from studio.types import Image, Loaded, Sample, Sound, Text, Turn


@pytest.fixture(scope="module")
def loaded(tiny: Callable[[str], Path]) -> Loaded:
    return FAMILY.load(tiny("whisper"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("clips") / "clip.wav", seconds=1.0)


def sound(path: Path, seconds: float, rate: int = 16000) -> Path:
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate)
    return path


def row(*parts: Any, answer: str = "set pump two to forty") -> Sample:
    turns = (
        Turn(role="user", parts=parts),
        Turn(role="assistant", parts=(Text(text=answer),)),
    )
    return Sample(turns=turns, file=Path("clips.jsonl"), line=12)


def test_labels_and_decoder_inputs_are_what_transformers_makes_of_the_whole_sequence(
    loaded: Loaded, clip: Path
) -> None:
    item = FAMILY.encode(loaded.processor, row(Sound(path=clip)), True)
    whole = torch.tensor(loaded.processor.tokenizer("set pump two to forty").input_ids)
    config = loaded.model.config
    assert whole[0] == config.decoder_start_token_id
    theirs = shift_tokens_right(whole[None, 1:], config.pad_token_id, config.decoder_start_token_id)[0]
    assert torch.equal(item["decoder_input_ids"], theirs)
    learned = item["labels"] != -100
    assert torch.equal(item["labels"][learned], whole[1:][learned])
    assert learned.tolist() == [False] * 3 + [True] * (len(learned) - 3)


def test_features_are_those_of_the_genuine_processor(loaded: Loaded, clip: Path) -> None:
    wave, rate = soundfile.read(clip, dtype="float32")
    theirs = loaded.processor(audio=wave, sampling_rate=rate, return_tensors="pt").input_features[0]
    ours = FAMILY.encode(loaded.processor, row(Sound(path=clip)), False)["input_features"]
    assert torch.equal(ours, theirs)
    assert ours.shape == (80, 3000)


def test_a_sound_of_another_rate_is_resampled(loaded: Loaded, clip: Path, tmp_path: Path) -> None:
    other = sound(tmp_path / "other.wav", seconds=1.0, rate=44100)
    pair = [FAMILY.encode(loaded.processor, row(Sound(path=path)), False) for path in (clip, other)]
    loudest = [int(item["input_features"][:, :90].mean(1).argmax()) for item in pair]
    assert loudest[0] == loudest[1], "the tone sits in another mel band"
    assert abs(int(pair[0]["attention_mask"].sum()) - int(pair[1]["attention_mask"].sum())) <= 1


def test_a_sound_that_fills_the_window_is_taken_and_a_longer_one_refused(
    loaded: Loaded, tmp_path: Path
) -> None:
    full = sound(tmp_path / "full.wav", seconds=30.0)
    assert FAMILY.encode(loaded.processor, row(Sound(path=full)), False)["attention_mask"].sum() == 3000
    long = sound(tmp_path / "long.wav", seconds=31.5)
    with pytest.raises(MediaError, match=r"^clips\.jsonl:12: .*long\.wav' lasts 31\.5 s.* at most 30 s"):
        FAMILY.encode(loaded.processor, row(Sound(path=long)), True)


def test_the_users_text_becomes_the_context_before_the_transcript(loaded: Loaded, clip: Path) -> None:
    sample = row(Text(text="the pumps"), Sound(path=clip))
    item = FAMILY.encode(loaded.processor, sample, True)
    tokenizer = loaded.processor.tokenizer
    text = tokenizer.decode(item["decoder_input_ids"])
    assert text.startswith("<|startofprev|> the pumps<|startoftranscript|><|en|><|transcribe|>")
    theirs = torch.from_numpy(loaded.processor.get_prompt_ids("the pumps"))
    assert torch.equal(item["decoder_input_ids"][: len(theirs)], theirs)
    assert tokenizer.decode(item["labels"][item["labels"] != -100]) == "set pump two to forty<|endoftext|>"


def test_rows_that_whisper_cannot_take_are_refused_with_file_and_line(
    loaded: Loaded, clip: Path, tmp_path: Path
) -> None:
    heard = Sound(path=clip)
    two = row(heard)
    twice = Sample(turns=two.turns * 2, file=two.file, line=two.line)
    mute = Sample(turns=two.turns[:1], file=two.file, line=two.line)
    for sample, reason in (
        (row(heard, heard), "2 sounds"),
        (row(Text(text="no sound")), "0 sounds"),
        (row(heard, Image(path=tmp_path / "a.png")), "1 pictures"),
        (twice, "2 sounds"),
        (mute, "one answer.* has 0"),
        (row(heard, answer="word " * 400), "at most 449"),
        (row(heard, Text(text="word " * 300)), "at most 223"),
    ):
        with pytest.raises(DataError, match=rf"^clips\.jsonl:12: .*{reason}"):
            FAMILY.encode(loaded.processor, sample, True)
    talk = Turn(role="assistant", parts=(Text(text="yes"),))
    again = Sample(
        turns=(*two.turns, Turn(role="user", parts=(Text(text="?"),)), talk), file=two.file, line=12
    )
    with pytest.raises(DataError, match=r"one answer.* has 2"):
        FAMILY.encode(loaded.processor, again, True)


def test_the_longest_answer_that_fits_can_be_trained_on(loaded: Loaded, clip: Path) -> None:
    tokens, word = 0, "word "
    count = len(loaded.processor.tokenizer(word * 10, add_special_tokens=False).input_ids) // 10
    text = (word * (440 // count)).strip()
    item = FAMILY.encode(loaded.processor, row(Sound(path=clip), answer=text), True)
    tokens = len(item["labels"])
    assert 400 < tokens <= 448
    with torch.no_grad():
        assert loaded.model(**FAMILY.collate(loaded.processor, [item], "right")).loss.isfinite()


def test_a_multilingual_checkpoint_without_a_language_transcribes_english(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(tiny("whisper"), tmp_path / "plain"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["language"], config["task"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    prefix = FAMILY.load(folder).processor.tokenizer.prefix_tokens
    assert prefix == FAMILY.load(tiny("whisper")).processor.tokenizer.prefix_tokens
    config |= {"language": "german", "task": "transcribe"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = FAMILY.load(folder).processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.prefix_tokens)[1] == "<|de|>"

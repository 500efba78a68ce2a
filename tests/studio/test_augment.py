"""What each augmentation step does to sounds, pictures, features and texts, and to which rows it may not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image as Pictures

from studio.augment._rows import Augmenter, draw_of
from studio.augment._steps import check_steps, fingerprint, read_steps
from studio.errors import ConfigError, DataError
from studio.types import Image, Sample, Sound, Text, Turn
from studio.variants import Engine

RATE = 16_000
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def run(name: str, given: Any, number: int = 0, **settings: Any) -> Any:
    (step,) = read_steps([{name: settings}])
    more = {"rate": RATE} if step.takes == "samples" else {}
    return step.augment(given, draw_of(0, number), **more, **step.settings)


def pitch(wave: Any) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave))


def level(wave: Any) -> float:
    return float(10 * np.log10(np.mean(np.square(wave, dtype=np.float64))))


def row(*parts: Any, answer: str = "yes", **more: Any) -> Sample:
    turns = (Turn(role="user", parts=parts), Turn(role="assistant", parts=(Text(text=answer),)))
    return Sample(turns=turns, file=Path("made.jsonl"), line=1, **more)


def test_a_sound_at_double_speed_is_half_as_long_and_an_octave_higher() -> None:
    fast = run("speed", TONE, factor=[2.0, 2.0])
    assert len(fast) == len(TONE) // 2
    assert pitch(fast) == pytest.approx(880, abs=2)
    assert run("speed", TONE, factor=[1.0, 1.0]) is TONE


@pytest.mark.parametrize("colour", ["white", "pink"])
def test_noise_stands_at_the_ratio_that_was_asked_for(colour: str) -> None:
    noisy = run("noise", TONE, snr=[12, 12], colour=colour)
    scale = float(np.dot(noisy, TONE) / np.dot(TONE, TONE))
    assert level(TONE * scale) - level(noisy - scale * TONE) == pytest.approx(12, abs=0.2)
    assert np.array_equal(run("noise", np.zeros(100, np.float32)), np.zeros(100, np.float32))


def test_pink_noise_loses_three_decibels_an_octave() -> None:
    pink = run("noise", np.full(1 << 17, 1e-4, np.float32), snr=[-20, -20], colour="pink")
    power = np.abs(np.fft.rfft(pink)) ** 2
    octaves = [10 * np.log10(power[1 << k : 2 << k].mean()) for k in range(8, 15)]
    assert np.diff(octaves) == pytest.approx([-3.01] * 6, abs=0.8)


def test_noise_is_taken_from_recordings(tmp_path: Path) -> None:
    hum = (0.5 * np.sin(2 * np.pi * 100 * np.arange(800) / 8000)).astype(np.float32)
    soundfile.write(tmp_path / "hum.wav", hum, 8000)  # another rate, and shorter than the sound
    noisy = run("noise", TONE, snr=[0, 0], recordings=str(tmp_path))
    assert pitch(noisy - TONE * float(np.dot(noisy, TONE) / np.dot(TONE, TONE))) == pytest.approx(100, abs=2)
    (tmp_path / "hum.wav").unlink()
    with pytest.raises(ConfigError, match=r"augment\.noise: .* holds no sound; allowed: \.aif"):
        run("noise", TONE, recordings=str(tmp_path))


def test_gain_is_in_decibels_and_never_clips() -> None:
    assert level(run("gain", TONE, db=[-6, -6])) - level(TONE) == pytest.approx(-6, abs=0.01)
    loud = run("gain", TONE, db=[40, 40])
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(loud, TONE)[0, 1] == pytest.approx(1, abs=1e-6)


def test_an_impulse_response_with_one_echo_gives_one_echo(tmp_path: Path) -> None:
    response = np.zeros(4001, np.float32)
    response[[100, 4000]] = 0.9, 0.45  # the first 100 samples are the way to the microphone
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.5
    wet = run("reverb", click, impulses=str(tmp_path / "room.wav"), wet=[1.0, 1.0])
    assert np.flatnonzero(np.abs(wet) > 0.01).tolist() == [1000, 4900]
    assert wet[4900] / wet[1000] == pytest.approx(0.5, abs=0.01)


def test_a_made_up_room_rings_on_after_the_sound_and_is_as_loud() -> None:
    burst = np.concatenate([TONE[:RATE], np.zeros(RATE, np.float32)])
    wet = run("reverb", burst, seconds=[0.5, 0.5], wet=[0.5, 0.5])
    assert level(wet) == pytest.approx(level(burst), abs=0.1)
    tail = [level(wet[RATE + at : RATE + at + 800]) for at in (0, 2400, 4800)]
    assert tail[0] - tail[2] == pytest.approx(36, abs=8)  # 0.3 of the 0.5 s in which it falls by 60 dB


def test_specaugment_masks_no_more_than_it_may_and_leaves_the_rest() -> None:
    features = torch.rand(80, 400, generator=torch.Generator().manual_seed(1))
    for number in range(20):
        masked = run("specaugment", features, number, bands=1, band=0.1, stretches=1, stretch=0.05)
        changed = masked != features
        rows, columns = changed.all(1), changed.all(0)
        assert int(rows.sum()) <= 8
        assert int(columns.sum()) <= 20
        assert not bool(changed[~rows][:, ~columns].any())
    assert torch.equal(run("specaugment", features, bands=0, stretches=0), features)


def test_pictures_are_mirrored_cropped_blurred_and_coloured() -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :16] = 200, 100, 50
    picture = Pictures.fromarray(pixels)
    labels = ["left"]
    assert np.array_equal(np.asarray(run("flip", picture, labels=labels)), pixels[:, ::-1])
    assert np.array_equal(np.asarray(run("flip", picture, labels=labels, axis="vertical")), pixels[::-1])
    whole = run("crop", picture, share=[1, 1], aspect=[1, 1])
    assert np.array_equal(np.asarray(whole), pixels)
    blurred = np.asarray(run("blur", picture, radius=[3, 3]))
    assert 20 < blurred[16, 16, 0] < 180
    grey = np.asarray(run("colour", picture, brightness=[1, 1], contrast=[1, 1], saturation=[0, 0]))
    assert int(np.ptp(grey.astype(int), axis=-1).max()) == 0
    coarse, fine = (np.asarray(run("jpeg", picture, quality=[q, q])).astype(int) for q in (2, 100))
    assert np.abs(coarse - pixels).mean() > 5 * np.abs(fine - pixels).mean()


def test_texts_are_changed_word_by_word(tmp_path: Path) -> None:
    text = "  Stop the pump,\nthen read the dial. "
    table = tmp_path / "words.yaml"
    table.write_text("pump: [engine]\nread: [check]\n")
    assert run("synonyms", text, table=str(table), rate=1.0) == "  Stop the engine,\nthen check the dial. "
    assert sorted(run("swap", text).split()) == sorted(text.split())
    kept = run("deletion", text, rate=0.5)
    assert 0 < len(kept.split()) < 7
    assert kept.endswith(" ")
    longer = run("insertion", text, rate=0.4, table=str(table))
    assert len(longer.split()) == 10
    assert set(longer.split()) - set(text.split()) <= {"engine,", "check"}
    assert run("deletion", "word", rate=0.9) == run("swap", "word") == "word"
    table.write_text("pump: engine\n")
    with pytest.raises(ConfigError, match=r"augment\.synonyms: .* is no mapping of words to lists"):
        run("synonyms", text, table=str(table))


def test_rows_change_by_seed_epoch_row_and_step_alone(tmp_path: Path) -> None:
    steps = read_steps([{"swap": {"p": 0.8}}, {"deletion": {"rate": 0.3}}])
    words = Text(text="one two three four five six seven eight")

    def text(seed: int = 0, epoch: int = 0, row_number: int = 0) -> str:
        made = Augmenter(steps=steps, seed=seed, epoch=epoch, folder=tmp_path).sample(row(words), row_number)
        assert made.answer == "yes"
        return made.turns[0].text

    assert text() == text()
    every = {text(s, e, r) for s in range(3) for e in range(3) for r in range(3)}
    assert len(every) > 20
    forwards = [text(row_number=at) for at in range(6)]
    assert forwards == [text(row_number=at) for at in reversed(range(6))][::-1]


def test_a_transcript_by_segments_keeps_pace_with_its_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    segments = [{"start": 0.0, "end": 1.0, "text": "one"}, {"start": 1.0, "end": 2.0, "text": "two"}]
    sample = row(Sound(path=tmp_path / "a.wav"), extra={"segments": segments})
    augmenter = Augmenter(
        steps=read_steps([{"speed": {"factor": [0.8, 0.8]}}]), seed=0, epoch=0, folder=tmp_path / "made"
    )
    (tmp_path / "made").mkdir()
    made = augmenter.sample(sample, 0)
    assert augmenter.seconds[made.sounds[0].path] == pytest.approx(2.5, abs=1e-3)
    assert [one["end"] for one in made.extra["segments"]] == pytest.approx([1.25, 2.5], abs=1e-3)
    assert sample.extra["segments"][0]["end"] == 1.0


def test_directions_in_a_row_refuse_a_flip_or_keep_it_away(tmp_path: Path) -> None:
    Pictures.new("RGB", (8, 8)).save(tmp_path / "a.png")
    picture = Image(path=tmp_path / "a.png")
    rows = [
        row(picture, answer="a hole"),
        row(picture, answer="On the LEFT."),
        row(picture, answer="leftover"),
    ]
    with pytest.raises(ConfigError, match=r"augment\.flip: 'labels' must be given"):
        read_steps([{"flip": {}}])
    strict = read_steps([{"flip": {"labels": "none of [left, right]"}}])
    with pytest.raises(DataError, match=r"^made\.jsonl:1: it says 'left', which flip would make untrue"):
        check_steps(strict, rows)
    mild = read_steps([{"flip": {"labels": "none of [left, right]", "otherwise": "skip"}}])
    check_steps(mild, rows)
    (tmp_path / "made").mkdir()
    augmenter = Augmenter(steps=mild, seed=0, epoch=0, folder=tmp_path / "made")
    assert [augmenter.sample(sample, 0) is sample for sample in rows] == [False, True, False]


def test_a_step_that_could_change_no_row_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.blur: it changes a picture, and no row has one"):
        check_steps(read_steps(["blur"]), [row(Text(text="hello"))])


def test_the_fingerprint_covers_settings_order_and_what_files_hold(tmp_path: Path) -> None:
    table = tmp_path / "words.txt"
    table.write_text("pump, engine\n")
    given = [{"synonyms": {"table": str(table)}}, {"swap": {"p": 0.5}}]
    known = {fingerprint(read_steps(given)), fingerprint(read_steps(given[::-1]))}
    known.add(fingerprint(read_steps([given[0], {"swap": {}}])))
    table.write_text("pump, engine, motor\n")
    known.add(fingerprint(read_steps(given)))
    assert len(known) == 4


def test_all_mistakes_are_told_at_once() -> None:
    wrong = [{"blurr": {}}, {"noise": {"snr": [20, 5]}}, {"speed": {"factor": [0.1, 1]}}, 3]
    with pytest.raises(ConfigError) as caught:
        read_steps(json.loads(json.dumps(wrong)))
    told = str(caught.value)
    assert "did you mean 'blur'?" in told
    assert "augment.noise: 'snr' must be the least value and then the greatest, not [20.0, 5.0]" in told
    assert "augment.speed: 'factor' must be from 0.5 to 2, not [0.1, 1.0]" in told
    assert "a step is a name with its settings, not 3" in told
    assert dataclasses.is_dataclass(read_steps(["blur"])[0])


def test_a_recording_that_is_broken_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", TONE, RATE)
    (tmp_path / "bad.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:500])
    with pytest.raises(
        ConfigError, match=r"augment\.noise: holds what cannot be used: sound '.*bad\.wav' is trunc"
    ):
        read_steps([{"noise": {"recordings": str(tmp_path)}}])


def test_only_frames_that_are_heard_are_masked_and_every_sound_by_itself(tmp_path: Path) -> None:
    steps = read_steps([{"specaugment": {"stretches": 8, "stretch": 0.2}}])
    augmenter = Augmenter(steps=steps, seed=0, epoch=0, folder=tmp_path)
    sounds = torch.rand(80, 100, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    heard = torch.ones(2, 100, dtype=torch.long)
    heard[1, 40:] = 0
    item = {"input_features": sounds, "feature_attention_mask": heard, "attention_mask": torch.ones(7)}
    made = augmenter.features(item, 0, 0, row(Text(text="x")))["input_features"]
    assert torch.equal(made[1, :, 40:], sounds[1, :, 40:])
    assert not torch.equal(made[0, :, 40:], sounds[0, :, 40:])
    assert not torch.equal(made[0, :, :40], made[1, :, :40])
    one = augmenter.features(
        {"input_features": sounds[0], "attention_mask": heard[1]}, 0, 0, row(Text(text="x"))
    )
    assert torch.equal(one["input_features"][:, 40:], sounds[0, :, 40:])
    assert not torch.equal(one["input_features"], sounds[0])


def test_a_model_is_asked_once_for_each_variant_of_a_text(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    answer = Engine.answer

    def counted(self: Engine, name: str, sample: Sample, **settings: Any) -> str:
        asked.append((sample.turns[0].text, settings["seed"]))
        return answer(self, name, sample, **settings)

    monkeypatch.setattr(Engine, "answer", counted)
    given = {"model": str(tiny("qwen_omni")), "prompt": "Other words: {text}", "variants": 3, "tokens": 4}
    texts = {run("paraphrase", "start the pump", number, **given) for number in range(30)}
    assert sorted(asked) == [("Other words: start the pump", seed) for seed in range(3)]
    assert 1 < len(texts) <= 3
    with pytest.raises(ConfigError, match=r"augment\.paraphrase: a prompt needs \{text\} where"):
        run("paraphrase", "x", **{**given, "prompt": "Other words"})
    with pytest.raises(
        ConfigError, match=r"augment\.backtranslation: there is no model 'nano-omny'.*nano-omni"
    ):
        run("backtranslation", "x", there="nano-omny")

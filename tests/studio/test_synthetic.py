"""Rendered pictures and voices: a seed fixes them, and they show what their facts say."""

from __future__ import annotations

import shutil
from random import Random

import numpy as np
import pytest

from studio.synthetic import domains, general, pictures, voices

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.mark.parametrize("render", [pictures.scene, pictures.group, pictures.surface, pictures.spot])
def test_a_seed_fixes_every_pixel_and_every_fact(render) -> None:
    first, again, other = render(Random(3)), render(Random(3)), render(Random(4))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1] == again[1]
    assert first[0].tobytes() != other[0].tobytes()
    assert first[0].size == (64, 64)


@pytest.mark.parametrize("defect", pictures.DEFECTS)
@pytest.mark.parametrize("place", pictures.PLACES)
def test_a_defect_changes_the_cloth_in_its_own_field(defect: str, place: str) -> None:
    # The same random numbers weave the same cloth: only the defect can differ.
    whole = np.asarray(pictures.cloth(None, place, Random(5)), float)
    torn = np.asarray(pictures.cloth(defect, place, Random(5)), float)
    row, column = divmod(pictures.PLACES.index(place), 3)
    change = np.abs(whole - torn).sum(-1)
    if defect in ("hole", "misprint"):  # these draw further random numbers after the weave
        change = (change > 60).astype(float)
    y, x = (np.average(np.arange(64), weights=change.sum(axis)) for axis in (1, 0))
    assert (int(y * 3 // 64), int(x * 3 // 64)) == (row, column)


def test_the_words_are_single_tokens_of_the_shipped_tokenizer() -> None:
    from studio.assets import asset
    from studio.families.qwen_omni import load

    tokenizer = load(asset("models/nano-omni")).processor.tokenizer
    assert [word for word in general.WORDS if len(tokenizer(f" {word}").input_ids) != 1] == []


def test_train_and_test_voices_share_no_variant() -> None:
    assert not set(voices.TRAIN_VARIANTS) & set(voices.TEST_VARIANTS)


@needs_espeak
def test_a_seed_fixes_every_spoken_sample() -> None:
    first, again = (voices.room(voices.speak("set pump two", voices.TEST_VARIANTS, r)[0], r)
                    for r in (Random(1), Random(1)))  # fmt: skip
    assert np.array_equal(first, again)
    assert 0.5 < len(first) / voices.RATE < 4
    assert np.abs(first).max() <= 1


@needs_espeak
def test_a_general_row_never_answers_in_a_domains_format(tmp_path) -> None:
    formats = ("digit", "defect:", "(", "please", "look at", "it is a")
    for kind in ("picture", "words", "sound", "both", "text"):
        for index in range(6):
            row = general.make(tmp_path, "train", 0, (kind, index))
            answer = row["messages"][-1]["content"].lower()
            assert not any(mark in answer for mark in formats), answer


def test_a_command_means_what_is_said() -> None:
    for seed in range(200):
        said, meant = domains.command(Random(seed))
        words = said.split()
        assert meant.startswith(f"{words[0]}({words[1]} {general.UNITS.index(words[2])}")
        assert meant.count(",") == (words[0] in ("set", "raise", "lower"))

"""The shipped domains: big enough, without leakage, and what they say they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from studio.assets import asset, assets_root
from studio.data import load_data
from studio.synthetic import voices
from studio.types import Sample

DOMAINS = ("handwriting", "textiles", "commands", "helpdesk")


def halves(domain: str) -> tuple[list[Sample], list[Sample]]:
    folder = asset(f"data/{domain}")
    return load_data(folder, split="train"), load_data(folder, split="test")


def hashes(samples: list[Sample]) -> set[str]:
    media = [part.path for sample in samples for part in (*sample.images, *sample.sounds)]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in media}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_has_enough_test_samples_and_shares_no_medium_with_its_training(domain: str) -> None:
    train, test = halves(domain)
    assert len(test) >= 200
    assert len(train) >= 800
    assert hashes(test) == hashes(test) - hashes(train)


@pytest.mark.parametrize("domain", ["commands", "helpdesk"])
def test_test_voices_are_not_train_voices(domain: str) -> None:
    train, test = ({sample.groups["voice"] for sample in half} for half in halves(domain))
    assert not train & test
    assert {voice.split("+")[1] for voice in test} <= set(voices.TEST_VARIANTS)


def test_handwriting_is_the_real_set_and_no_digit_stands_on_both_sides() -> None:
    from sklearn.datasets import load_digits

    from studio.media import load_image

    real = {image.round().astype(int).tobytes() for image in load_digits().images}
    train, test = halves("handwriting")
    pixels = [{np.asarray(load_image(s.images[0].path)).tobytes() for s in half} for half in (train, test)]
    assert not pixels[0] & pixels[1]
    assert len(real) > 1700
    for sample in test:
        digit = int(sample.answer.split("digit ")[1][0])
        assert sample.answer == f"This is the digit {digit}, an {'odd' if digit % 2 else 'even'} number."


def test_every_answer_of_helpdesk_needs_the_picture_and_the_question() -> None:
    train, test = halves("helpdesk")
    for sample in (*train, *test):
        assert len(sample.images) == len(sample.sounds) == 1
        assert not any(turn.text for turn in sample.prompt)
    asked = {sample.groups["asked"] for sample in test}
    assert asked == {"what", "where", "do"}


def test_the_assets_stay_below_forty_megabytes_and_the_model_below_sixteen() -> None:
    def size(folder: Path) -> float:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6

    assert size(assets_root()) < 40
    assert size(asset("models/nano-omni")) < 16

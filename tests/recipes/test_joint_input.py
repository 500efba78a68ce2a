"""Helpdesk needs both inputs: without the picture or without the question, an expert can only guess."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from apps.demo import ANSWER_TOKENS, EXPERTS
from recipes import sft
from studio.assets import asset, find_data
from studio.config import from_dict
from studio.data import load_data
from studio.log import QuietLog
from studio.scores import measure
from studio.types import Image, Sample, Sound
from studio.variants import Engine


def without(sample: Sample, kind: type) -> Sample:
    turns = [
        replace(turn, parts=tuple(p for p in turn.parts if not isinstance(p, kind))) for turn in sample.turns
    ]
    return replace(sample, turns=tuple(turns))


def best_guess(train: list[Sample], test: list[Sample], known: str) -> float:
    """Accuracy of the commonest training answer given what the input left still tells."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        seen[sample.groups[known]][sample.answer] += 1
    return sum(seen[s.groups[known]].most_common(1)[0][0] == s.answer for s in test) / len(test)


@pytest.mark.slow  # trains the demo's helpdesk expert whole: one to two minutes
def test_removing_either_input_drops_the_expert_to_guessing(tmp_path) -> None:
    train, test = (load_data(find_data("helpdesk"), split=split) for split in ("train", "test"))
    settings = {**EXPERTS["helpdesk"], "data": "helpdesk", "output": str(tmp_path / "run")}
    run = sft.run(from_dict(sft.Config, settings), QuietLog())
    engine = Engine(asset("models/nano-omni"), {"expert": run.folder / "adapter"})

    def accuracy(samples: list[Sample]) -> float:
        said = engine.answers("expert", samples, max_new_tokens=ANSWER_TOKENS, batch_size=32)
        return measure("exact_match", said, [s.answer for s in samples]).value

    whole = accuracy(test)
    blind = accuracy([without(s, Image) for s in test])
    deaf = accuracy([without(s, Sound) for s in test])
    print(f"both {whole:.3f}, no picture {blind:.3f}, no question {deaf:.3f}")
    assert whole >= 0.9
    # Twice the standard error of 250 samples is 6 points: guessing may be lucky by that much.
    assert blind <= best_guess(train, test, "asked") + 0.06
    assert deaf <= best_guess(train, test, "defect") + 0.06

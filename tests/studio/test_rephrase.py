"""Questions in other words: a row's own, a model's, or set phrases around them; everything else stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.rephrase import FRAMES, read_paraphraser, rephrased
from studio.types import Image, Sample, Text, Turn


def question(text: str = "what is it?", **more: object) -> Sample:
    parts = (Image(path=Path("/nowhere.png")), Text(text=text)) if text else (Image(path=Path("/n.png")),)
    turns = (
        Turn(role="system", parts=(Text(text="be brief"),)),
        Turn(role="user", parts=parts),
        Turn(role="assistant", parts=(Text(text="red"),)),
    )
    return Sample(turns=turns, groups={"voice": "anna"}, line=3, **more)  # type: ignore[arg-type]


def test_set_phrases_stand_around_the_question_and_change_none_of_its_words() -> None:
    sample = question()
    (found,) = rephrased([sample], 3, QuietLog())
    assert [each.turns[1].text for each in found] == [
        frame.replace("{text}", "what is it?") for frame in FRAMES[:3]
    ]
    for each in found:
        assert (each.turns[0], each.turns[2], each.groups, each.line) == (
            sample.turns[0], sample.turns[2], sample.groups, sample.line,
        )  # fmt: skip
        assert each.turns[1].parts[0] == sample.turns[1].parts[0]
    (all_of_them,) = rephrased([sample], 99, QuietLog())
    assert len(all_of_them) == len(FRAMES)


def test_a_rows_own_wordings_come_first_and_equal_ones_do_not_count() -> None:
    own = ["what do you see?", "what is it?", " what do you see? ", "name it"]
    (found, framed) = rephrased([question(extra={"paraphrases": own}), question()], 5, QuietLog())
    assert [each.turns[1].text for each in found] == ["what do you see?", "name it"]
    assert len(framed) == 5


def test_a_model_says_it_in_other_words(tiny: Callable[[str], Path]) -> None:
    step = read_paraphraser(str(tiny("qwen_omni")))
    assert (step.name, step.takes) == ("paraphrase", "text")
    short = read_paraphraser(f"paraphrase: {{model: {tiny('qwen_omni')}, tokens: 4}}")
    (found,) = rephrased([question()], 2, QuietLog(), step=short)
    texts = [each.turns[1].text for each in found]
    assert 1 <= len(texts) <= 2  # a random model may say the same twice
    assert len({*texts, "what is it?", ""}) == len(texts) + 2
    assert [each.turns[1].text for each in rephrased([question()], 2, QuietLog(), step=short)[0]] == texts


def test_what_cannot_be_rephrased_is_told() -> None:
    with pytest.raises(ConfigError, match="none of 2 questions"):
        rephrased([question(""), question("")], 2, QuietLog())
    for wrong in ("say it", [3], [""]):
        with pytest.raises(DataError, match=r"<memory>:3: 'paraphrases' must be a list of texts"):
            rephrased([question(extra={"paraphrases": wrong})], 2, QuietLog())
    with pytest.raises(ConfigError, match="there is no model 'nobody'"):
        read_paraphraser("nobody")
    with pytest.raises(ConfigError, match="--paraphraser blur changes no text"):
        read_paraphraser("blur: {}")

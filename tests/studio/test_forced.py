from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from studio import plugins
from studio.assets import find_data, find_model
from studio.data import load_data
from studio.families import family
from studio.forced import Forced, Row
from studio.generate import answers
from studio.likelihood import log_probs
from studio.types import Sample, Text, Turn


def answered(sample: Sample, text: str) -> Sample:
    return replace(sample, turns=(*sample.prompt, Turn(role="assistant", parts=(Text(text=text),))))


def test_a_reference_is_exact_where_greedy_decoding_says_it() -> None:
    kind, loaded = family("qwen_omni"), family("qwen_omni").load(find_model("nano-omni"))
    asked = (
        load_data(find_data("textiles"), split="test")[:6]
        + load_data(find_data("commands"), split="test")[:4]
    )
    said = answers(loaded, kind, asked)
    assert len(set(said)) > 1
    own = [answered(sample, text) for sample, text in zip(asked, said, strict=True)]
    assert [row.exact for row in Forced(loaded, kind, own, batch_size=4).ask()] == [1.0] * 10
    assert [row.exact for row in Forced(loaded, kind, asked).ask()] == [
        float(text == sample.answer) for sample, text in zip(asked, said, strict=True)
    ]


def test_log_p_is_that_of_the_likelihood_and_does_not_depend_on_the_batch(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family("qwen_omni")
    loaded = kind.load(tiny("qwen_omni"))
    asked = questions("qwen_omni", 6)
    expected = log_probs(loaded, kind, asked, [s.answer for s in asked], within=lambda: nullcontext(loaded))
    for size in (1, 4):
        rows = Forced(loaded, kind, asked, batch_size=size).ask()
        assert [row.tokens for row in rows] == [count for _, count in expected]
        # float32 sums over other batches
        assert [row.log_p for row in rows] == pytest.approx([p for p, _ in expected], abs=1e-3)


def test_figures_of_a_row_follow_from_its_tokens() -> None:
    row = Row(tokens=4, right=3, log_p=4 * math.log(0.5))
    assert (row.exact, row.share, row.likelihood) == (0.0, 0.75, pytest.approx(0.5))
    assert Row(tokens=4, right=4, log_p=-1.0).exact == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names("families"))
def test_log_p_of_any_family_is_that_of_the_likelihood(
    name: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family(name)
    loaded = kind.load(tiny(name))
    asked = questions(name, 3)
    expected = log_probs(loaded, kind, asked, [s.answer for s in asked], within=lambda: nullcontext(loaded))
    rows = Forced(loaded, kind, asked, batch_size=2).ask()
    assert [row.tokens for row in rows] == [count for _, count in expected]
    assert [row.log_p for row in rows] == pytest.approx([p for p, _ in expected], abs=1e-2)

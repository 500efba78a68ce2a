"""What an explanation looks like: in words, as a picture, as JSON, and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from apps.cli import main
from studio.explain import Explanation
from studio.explain_picture import overlay, picture, strength
from studio.explain_units import Unit, cut
from studio.explain_words import record, sentences
from studio.types import Image, Sample, Text, Turn


def made(units: Sequence[Unit], weights: Sequence[float], **changes: Any) -> Explanation:
    told: dict[str, Any] = {
        "variant": "v", "answer": "a hole", "method": "shapley", "value": -1.0,
        "empty": -1.0 - sum(weights), "delta": 0.0, "passes": 9,
    }  # fmt: skip
    return Explanation(units=tuple(units), weights=tuple(weights), **{**told, **changes})


@pytest.fixture
def cloth(tmp_path: Path) -> Sample:
    """Return a question about a white picture of 60 x 60."""
    Pictures.new("RGB", (60, 60), "white").save(tmp_path / "cloth.png")
    parts = (Image(path=tmp_path / "cloth.png"), Text(text="Inspect it, please."))
    return Sample(turns=(Turn(role="user", parts=parts),))


def test_words_say_where_the_weight_lies(cloth: Sample) -> None:
    units = cut(cloth, grid=6)
    weights = [0.0] * len(units)
    weights[5] = weights[4] = 3.0  # the first row's right end
    weights[-1] = -2.0
    told = sentences(made(units, weights), "A", "")
    assert told == [
        "A gives this answer log p -1.00 with the question, -5.00 without: 4.00 nats more.",
        "75% of the weight lies on the picture, for the answer, mostly at the top right.",
        "25% of the weight lies on the words, against the answer, mostly on “please”.",
        "Too few orders were gone through to know the error: take these weights as rough.",
    ]
    unsure = made(units, weights, errors=tuple([5.0] * len(units)))
    assert "within their own error" in sentences(unsure)[-1]
    apart = sentences(made(units, weights, against="w", value=2.0, empty=-0.5))
    assert apart[0] == (
        "v finds this answer 2.00 nats more likely than w does; without anything of the question it is "
        "0.50 nats less likely."
    )
    assert sentences(made(units, [0.0] * len(units)))[1].startswith("Nothing of the question")


def test_spans_that_touch_are_one_stretch_of_time() -> None:
    units = [Unit(kind="span", turn=0, part=0, place=(at / 2, at / 2 + 0.5)) for at in range(6)]
    told = sentences(made(units, [0.0, 4.0, 4.0, 0.1, 3.0, -3.0]))[1]
    assert told == (
        "100% of the weight lies on the sound, for the answer, mostly at 0.5 to 1.5 seconds; what speaks "
        "against it lies mostly at 2.5 to 3.0 seconds."
    )


def test_heat_is_teal_where_it_speaks_for_the_answer_and_orange_against(cloth: Sample) -> None:
    units = cut(cloth, grid=2, words=False)
    found = made(units, [2.0, 0.0, 0.0, -1.0])
    assert strength(found) == [1.0, 0.0, 0.0, -0.5]
    pixels = np.asarray(overlay(cloth.images[0], units, strength(found), 100)).astype(int)
    assert pixels.shape == (100, 100, 3)
    red, _, blue = pixels[25, 25]
    assert blue - red > 50
    assert np.ptp(pixels[25, 75]) == 0
    red, _, blue = pixels[75, 75]
    assert red - blue > 30
    sheet = Pictures.open(BytesIO(picture(found, cloth)))
    assert sheet.width > 900
    assert 500 < sheet.height < 1200


def test_the_command_writes_a_picture_and_figures(
    tiny: Callable[[str], Path],
    questions: Callable[[str, int], list[Sample]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = questions("qwen_omni", 2)[1]
    out = tmp_path / "why"
    line = ["explain", str(tiny("qwen_omni")), "--image", str(asked.images[0].path), "--text", "what is it?"]
    settings = ["--answer", "red", "--grid", "2", "--budget", "40", "--out", str(out)]
    assert main([*line, *settings, "--check"]) == 0
    told = capsys.readouterr().out
    assert "of the weight lies on the picture" in told
    assert "insertion" in told
    with Pictures.open(out / "explanation.png") as sheet:
        assert sheet.format == "PNG"
    kept = json.loads((out / "explanation.json").read_text())
    assert kept["answer"] == "red"
    assert kept["passes"] <= 40
    assert [unit["kind"] for unit in kept["units"]].count("word") == 3
    assert sum(unit["weight"] for unit in kept["units"]) == pytest.approx(
        kept["value"] - kept["empty"] + kept["delta"]
    )
    assert kept["in_words"] == sentences_of(kept, told)
    assert set(kept["curves"]) >= {"deletion", "random_deletion", "insertion", "random_insertion"}


def sentences_of(kept: dict[str, Any], told: str) -> list[str]:
    """Return the lines of the command's output that are the explanation."""
    return [line for line in told.splitlines() if line in kept["in_words"]]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "ask with --image, --sound and --text, or with --data and --row: one of the two"),
        (["--text", "a", "--row", "1"], "--row is for --data"),
        (["--data", "textiles", "--row", "0"], "--row is 0; textiles has rows 1 to"),
        (["--text", "a", "--answer", "reference"], "this question has no reference answer"),
        (["--text", "what is it?", "--answer", "a", "--budget", "3"], "budget is 3 forward passes"),
    ],
)
def test_wrong_questions_are_refused_and_nothing_is_written(
    more: list[str], sentence: str, tiny: Callable[[str], Path], tmp_path: Path, capsys: Any
) -> None:
    assert main(["explain", str(tiny("qwen_omni")), *more, "--out", str(tmp_path / "why")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "why").exists()


def test_a_record_holds_every_unit(cloth: Sample) -> None:
    units = cut(cloth, grid=2)
    kept = record(made(units, list(range(len(units)))))
    assert [unit["weight"] for unit in kept["units"]] == list(range(len(units)))
    assert kept["units"][0]["place"] == [0, 0, 30, 30]
    assert kept["units"][0]["error"] is None
    assert json.loads(json.dumps(kept)) == kept

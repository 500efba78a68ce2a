"""`triptych eval` given what it cannot use: one sentence, exit 2, nothing written, no model loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main


@pytest.fixture
def told(
    tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function: rows and options -> the sentence that the command answers with."""

    def call(rows: list[dict[str, Any]], *options: str) -> str:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / "out"
        status = main(["eval", f"m={tiny('qwen_omni')}", "--data", str(file), "--out", str(out), *options])
        said = capsys.readouterr().err.strip()
        assert status == 2, said
        assert not out.exists()
        (last,) = [line for line in said.splitlines() if line.startswith("triptych: ")]
        return last

    return call


def row(answer: Any = "a red circle", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def test_references_that_are_missing_or_no_text_are_named_by_line(told: Callable[..., str]) -> None:
    missing = {"messages": row()["messages"][:1]}
    assert "rows.jsonl:2 and 1 more: no reference to score against" in told([row(), missing, missing])
    for wrong in (5, None, ["red"], {"text": "red"}):
        assert "rows.jsonl:2" in told([row(), row(wrong)])


def test_a_metric_that_does_not_fit_is_told_with_those_that_do(told: Callable[..., str]) -> None:
    said = told([row(), row()], "--metric", "box_iou")
    assert "reference 1 holds no box [x1, y1, x2, y2]: 'a red circle'; metrics that fit: accuracy, " in said
    assert "exact_match" in said
    assert "box_iou" not in said.partition("metrics that fit")[2]
    assert "consistency needs for every sample: paraphrase" in told([row()], "--metric", "consistency")
    assert "needs a judging model (--judge MODEL)" in told([row()], "--metric", "judge")
    assert "not 1.5" in told([row(extra={"judgement": 1.5})], "--metric", "judge")
    assert "number that is not finite" in told([row(extra={"judgement": float("nan")})], "--metric", "judge")
    assert "unknown task 'speach'; did you mean 'speech'" in told([row()], "--metrics-for", "speach")


def test_groups_that_say_nothing_are_told(told: Callable[..., str]) -> None:
    anna, ben = row(groups={"voice": "anna"}), row(groups={"voice": "ben"})
    assert "rows.jsonl:2: the row has no group 'voice'; groups of" in told(
        [anna, row()], "--clusters", "voice"
    )
    assert "all 2 rows are of one voice ('anna')" in told([anna, anna], "--clusters", "voice")
    rule = "--must={}.exact_match[vice] > 0".format
    file = (
        told([anna, ben], "--must", "x.exact_match > 0").partition("known: ")[2].rpartition(".exact_match")[0]
    )
    assert "unknown group 'vice'; did you mean 'voice'" in told([anna, ben], rule(file))


def test_options_that_need_each_other_are_told(told: Callable[..., str], tmp_path: Path) -> None:
    assert "--paraphraser goes with it" in told([row()], "--paraphraser", "x")
    model = ["--judge", "nano-omni"]
    assert "name it as --baseline NAME" in told([row()], *model, "--judge-pairs")
    assert "at least two different ratings" in told([row()], *model, "--judge-ratings", "yes,yes")
    assert "there is no model 'nobody'" in told([row()], "--judge", "nobody")
    store = f"sqlite:///{tmp_path}/none.db"
    assert f"there is no store {tmp_path}/none.db" in told([row()], *model, "--judge-votes", store)

"""The recipe synthesize: what real models and templates propose, what is kept, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes import synthesize
from recipes._synthesis import agreed
from studio import plugins
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.data.findings import check
from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.types import Run, Sample, Text, Turn

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import sys; from recipes import synthesize as s\n"
    "from studio.config import load; from studio.log import PlainLog\n"
    "s.run(load(s.Config, overrides=sys.argv[1:]), PlainLog(every=0))"
)


@pytest.fixture
def settings(tiny: Callable[[str], Path], plain_data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny("qwen_omni")), "data": str(plain_data), "output": str(tmp_path / "made"),
        "samples": 3, "temperature": 1.0, "max_new_tokens": 4, "agreement": 0.0,
    }  # fmt: skip


def run(settings: dict[str, Any], **more: Any) -> Run:
    return synthesize.run(from_dict(synthesize.Config, {**settings, **more}), QuietLog())


def told(settings: dict[str, Any], file: str) -> Any:
    return json.loads((Path(settings["output"]) / file).read_text(encoding="utf-8"))


def text_rows(folder: Path, count: int) -> Path:
    """Write rows without answers that ask in text alone."""
    rows = [
        Sample(
            turns=(Turn(role="user", parts=(Text(text=f"what is {at}?"),)),), groups={"name": f"thing {at}"}
        )
        for at in range(count)
    ]
    write_jsonl(folder / "train.jsonl", rows)
    return folder


def test_the_answer_that_most_agree_on_is_found_with_its_share() -> None:
    exact = plugins.load("metrics", "exact_match")
    assert agreed(["a cat", "a dog", "A cat.", "a cat"], exact) == ("a cat", 0.75)
    assert agreed(["x", "y"], exact) == ("x", 0.5)
    answer, share = agreed(
        ["one two three four", "one two three four", "one two three", "nine"], plugins.load("metrics", "wer")
    )
    assert answer == "one two three four"
    assert 0.5 < share < 1.0


def test_every_row_says_that_it_is_synthetic_and_where_from(settings: dict[str, Any], tmp_path: Path) -> None:
    done = run(settings)
    rows = load_data(done.folder, split="train")
    origin = load_data(settings["data"], split="train")
    name = Path(settings["data"]).name
    assert len(rows) == done.metrics["kept"]
    assert len(rows) + done.metrics["rejected"] == 13
    for row in rows:
        made = row.extra["synthetic"]
        line = made["from"]["line"]
        assert row.source == f"synthetic: answers by tiny-qwen_omni; from {name}/train.jsonl"
        assert made["samples"] == 3
        assert 0 < made["agreement"] <= 1
        before = origin[line - 1]
        assert [turn.text for turn in row.prompt] == [turn.text for turn in before.prompt]
        old_media, new_media = ([p.path.read_bytes() for p in (*s.images, *s.sounds)] for s in (before, row))
        assert old_media == new_media
    report = check([done.folder / "train.jsonl"], QuietLog())
    assert report.errors == []
    assert told(settings, "synthesize.json")["own_answers"]["agreed"]["n"] >= len(rows)


def test_the_thresholds_are_applied_to_proposals_that_are_there(settings: dict[str, Any]) -> None:
    everything = run(settings).metrics["kept"]
    files = sorted(Path(settings["output"]).glob("proposed/*/*.json"))
    stamps = [file.stat().st_mtime_ns for file in files]
    shares = [
        one["agreement"] for file in files for one in json.loads(file.read_text()) if one["answer"].strip()
    ]
    assert {0.0 < share <= 1.0 for share in shares} == {True}
    wanted = sum(share > 0.5 for share in shares)
    if not wanted:  # a random model seldom agrees with itself
        with pytest.raises(
            DataError, match=r"none of 13 proposals was kept: .* x fewer than 0\.6 of the answers"
        ):
            run(settings, agreement=0.6)
    else:
        assert run(settings, agreement=0.6).metrics["kept"] <= wanted < everything
    assert [file.stat().st_mtime_ns for file in files] == stamps
    with pytest.raises(ConfigError, match=r"holds another run: temperature 0\.5 \(was 1\.0\)"):
        run(settings, temperature=0.5)


def test_answers_that_differ_from_the_reference_are_rejected_with_the_reason(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(DataError, match=r"exact_match against answer is below 1"):
        run(settings, against="answer")
    kept = run(settings, against="answer", score=0.0).metrics["kept"]
    assert kept > 0
    by_wer = run(settings, against="answer", metric="wer", score=50.0, resume=False)
    assert by_wer.metrics["kept"] > 0
    assert all("score" in row.extra["synthetic"] for row in load_data(by_wer.folder, split="train"))


def test_a_judge_that_says_the_same_lets_all_rows_pass(settings: dict[str, Any]) -> None:
    same = {"model": "nano-omni", "judge": "nano-omni", "samples": 1, "temperature": 0.0, "limit": 5}
    done = run({**settings, **same}, against="judge", data="handwriting", max_new_tokens=8)
    assert done.metrics["kept"] == 5
    assert {row.extra["synthetic"]["score"] for row in load_data(done.folder, split="train")} == {1.0}
    with pytest.raises(DataError, match="5 x there is no judge to score against"):
        run({**settings, **same}, against="judge", judge=settings["model"], data="handwriting", resume=False)


def test_templates_propose_answers_from_what_is_known_of_a_row(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    data = text_rows(tmp_path / "rows", 5)
    rows = load_data(data, split="train")
    rows[3] = dataclasses.replace(rows[3], groups={})
    write_jsonl(data / "train.jsonl", rows)
    made = {**settings, "data": str(data), "model": "", "templates": ["It is {name}.", "I see {name}."]}
    done = run(made)
    answers = {row.answer for row in load_data(done.folder, split="train")}
    assert answers <= {f"{start} thing {at}." for start in ("It is", "I see") for at in range(5)}
    (rejected,) = told(made, "rejected.json")
    assert rejected["where"] == "train.jsonl:4"
    assert rejected["reason"].startswith("unknown field 'name'; known: question")
    twice = run(made, variations=2, resume=False)
    assert twice.metrics["kept"] == 8
    sources = [row.source for row in load_data(twice.folder, split="train")]
    assert sources[:2] == ["synthetic: answers by templates; from rows/train.jsonl"] * 2


def test_questions_are_varied_and_the_answer_stays(settings: dict[str, Any]) -> None:
    by_templates = {**settings, "propose": "questions", "templates": ["Say it: {question}", "{question}"]}
    done = run(by_templates, variations=2, model="")
    origin = load_data(settings["data"], split="train")
    rows = load_data(done.folder, split="train")
    for row in rows:
        before = origin[row.extra["synthetic"]["from"]["line"] - 1]
        assert row.answer == before.answer
        assert row.prompt[-1].text == f"Say it: {before.prompt[-1].text}"
        assert len(row.images) == len(before.images)
    reasons = {one["reason"] for one in told(settings, "rejected.json")}
    assert reasons == {"the proposed question is the old one"}
    by_model = run(settings, propose="questions", resume=False)
    assert by_model.metrics["kept"] > 0
    (first, *_) = load_data(by_model.folder, split="train")
    assert first.source.startswith("synthetic: questions by tiny-qwen_omni; from ")


def test_a_folder_of_media_is_asked_and_a_broken_file_is_told(
    settings: dict[str, Any], plain_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.wav"):
        shutil.copy(plain_data / "media" / name, folder / name)
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:99])
    media = {**settings, "data": str(folder)}
    with pytest.raises(ConfigError, match="question must be given"):
        run(media)
    done = run(media, question="What is it?")
    rows = load_data(done.folder, split="train")
    assert {row.prompt[-1].text for row in rows} == {"What is it?"}
    assert {row.extra["synthetic"]["from"]["id"] for row in rows} <= {"1.png", "2.png", "3.wav"}
    broken = [one for one in told(settings, "rejected.json") if "broken.png" in one["reason"]]
    assert len(broken) == 1
    assert "truncated" in broken[0]["reason"]


def test_a_killed_run_goes_on_and_writes_what_an_uninterrupted_one_writes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    data = text_rows(tmp_path / "rows", 2 * synthesize.CHUNK + 5)
    killed = {**settings, "data": str(data), "output": str(tmp_path / "killed"), "samples": 2}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *(f"{key}={value}" for key, value in killed.items())],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    done: list[Path] = []
    while not done and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        done = list((tmp_path / "killed").glob("proposed/*/[0-9]*.json"))
    process.kill()  # SIGKILL: no handler runs
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "train.jsonl").exists()
    stamp = done[0].stat().st_mtime_ns
    run(killed)
    assert done[0].stat().st_mtime_ns == stamp, "what was proposed is not asked again"
    run({**killed, "output": str(tmp_path / "whole")})
    for file in ("train.jsonl", "rejected.json", "synthesize.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_mistakes_are_told_at_once_and_leave_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(settings, samples=0, agreement=2, against="anser", judge="nano-omni")
    for part in ("samples must", "agreement must", "did you mean 'answer'", "judge and against=judge"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="nobody proposes"):
        run(settings, model="")
    with pytest.raises(ConfigError, match="temperature is 0, so all samples are the same"):
        run(settings, temperature=0)
    with pytest.raises(ConfigError, match="no row has that group"):
        run(settings, against="groups.said")
    with pytest.raises(ValueError, match="did you mean 'exact_match'"):
        run(settings, metric="exact_mach")
    assert not Path(settings["output"]).exists()

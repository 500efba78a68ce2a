"""An evaluation that does not end well keeps its answers and says what is missing; what is beside scores."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.answer_cache import AnswerCache
from apps.answered import read_answered
from apps.evaluate import evaluate
from apps.group_report import group_report
from apps.judging import Judging
from studio.errors import TriptychError
from studio.eval_report.evaluation import read_evaluation
from studio.judge import Judge
from studio.log import QuietLog
from studio.rephrase import rephrased
from studio.types import Sample, Text, Turn
from studio.variants import Engine


class Counted:
    """A real engine that counts what it is asked, and does something after a variant's first answers."""

    def __init__(self, engine: Engine, after: Callable[[str], object] = lambda name: None) -> None:
        self.engine, self.names, self.fingerprint = engine, engine.names, engine.fingerprint
        self.log_probs, self.after, self.asked = engine.log_probs, after, 0

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        said = self.engine.answers(name, samples, **settings)
        self.asked += len(samples)
        self.after(name)
        return said


@pytest.fixture
def folders(tiny: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A base, and another model that may be taken away."""
    other = shutil.copytree(tiny("qwen_omni"), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "triptych_note": "other"}))
    return tiny("qwen_omni"), other


@pytest.fixture
def data() -> dict[str, list[Sample]]:
    return {"text": [question(f"word {number}", str(number), number) for number in range(20)]}


def question(text: str, answer: str, line: int) -> Sample:
    turns = (
        Turn(role="user", parts=(Text(text=text),)),
        Turn(role="assistant", parts=(Text(text=answer),)),
    )
    return Sample(turns=turns, line=line, groups={"voice": f"v{line // 10}"})


def run(engine: Any, data: Any, out: Path, **more: Any) -> Any:
    settings = {"metrics": ["exact_match"], "batch_size": 1, "max_new_tokens": 2} | more
    return evaluate(engine, data, log=QuietLog(), cache=out / "answers", out=out, **settings)


def told(out: Path) -> Any:
    return json.loads((out / "evaluation.json").read_text())


def test_a_variant_that_fails_is_named_and_the_others_are_scored(
    folders: tuple[Path, Path], data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    base, other = folders
    engine = Engine(base, {"base": None, "gone": other, "again": None})
    away = Counted(engine, lambda name: name == "base" and shutil.move(other, tmp_path / "away"))
    with pytest.raises(
        TriptychError, match=r"variant 'gone' failed .* is gone; was it moved.*marked partial"
    ):
        run(away, {"text": data["text"][:6]}, tmp_path / "out", baseline="base")
    partial = told(tmp_path / "out")
    assert (partial["partial"], partial["missing"]) == (True, {"gone": {"text": 6}})
    assert "is gone" in partial["failed"]["gone"]
    assert list(partial["results"]["text"]) == ["base", "again"]
    shutil.move(tmp_path / "away", other)
    whole = Counted(engine)
    results = run(whole, {"text": data["text"][:6]}, tmp_path / "out", baseline="base")
    assert (whole.asked, told(tmp_path / "out")["partial"]) == (6, False)
    assert list(results["text"]) == ["base", "gone", "again"]


def test_ctrl_c_leaves_figures_of_what_was_answered_and_the_same_call_goes_on(
    folders: tuple[Path, Path], data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    base, other = folders
    engine = Engine(base, {"base": None, "other": other})
    calls: list[str] = []

    def stop(name: str) -> None:
        calls.append(name)
        if len(calls) == 5:  # 20 questions are three calls: the second of the other's is lost
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            Counted(engine, stop),
            data,
            tmp_path / "out",
            baseline="base",
            metrics=["exact_match", "perplexity"],
        )
    partial = told(tmp_path / "out")
    assert (partial["missing"], partial["left_out"]) == ({"other": {"text": 12}}, ["perplexity"])
    cells = partial["results"]["text"]
    assert [cells[name]["metrics"]["exact_match"]["n"] for name in ("base", "other")] == [20, 8]
    assert (
        cells["other"]["metrics"]["exact_match"]["against"]["value"] == 0
    )  # on the eight that both answered
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 28
    rest = Counted(engine)
    run(rest, data, tmp_path / "out", baseline="base")
    assert (rest.asked, told(tmp_path / "out")["partial"]) == (12, False)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """A function that lets files grow to so many bytes; the system then refuses as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_no_answer_that_was_kept_and_no_old_file(
    folders: tuple[Path, Path],
    data: dict[str, list[Sample]],
    tmp_path: Path,
    small_disk: Callable[[int], None],
) -> None:
    engine, out = Engine(folders[0], {"base": None}), tmp_path / "out"
    run(engine, {"text": data["text"][:2]}, out)
    before = {file.name: file.read_bytes() for file in out.glob("*.json*")}
    size = sum(file.stat().st_size for file in (out / "answers").iterdir())
    small_disk(size + 900)  # the first eight of the new answers, and less than a file of figures
    with pytest.raises(OSError, match="too large"):
        run(engine, data, out)
    small_disk(resource.RLIM_INFINITY)
    assert {file.name: file.read_bytes() for file in out.glob("*.json*")} == before
    rest = Counted(engine)
    run(rest, data, out)
    assert 0 < rest.asked < 18
    assert told(out)["results"]["text"]["base"]["n"] == 20


def test_the_three_files_belong_together(
    folders: tuple[Path, Path], data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    run(Engine(folders[0], {"base": None}), {"text": data["text"][:2]}, tmp_path)
    for name, digest in told(tmp_path)["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert set(told(tmp_path)["files"]) == {"samples.jsonl", "scores.json"}


def test_judgements_confidences_paraphrases_and_groups_stand_beside_the_scores(
    folders: tuple[Path, Path], data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    base, other = folders
    engine, rows = Engine(base, {"base": None, "other": other}), data["text"][:12]
    judge = Judge(engine=Engine(base, {"judge": None}), name="judge")
    settings: dict[str, Any] = {
        "metrics": ["exact_match", "judge", "consistency", "calibration_error", "perplexity"],
        "again": {"text": rephrased(rows, 2, QuietLog())},
        "judging": Judging(judge=judge, title="judge", kept=AnswerCache(None, ""), pairs=True),
        "baseline": "base",
        "by": ["voice"],
    }
    results = run(engine, {"text": rows}, tmp_path, **settings)
    cell = results["text"]["base"]["metrics"]
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    ours = [line for line in lines if line["variant"] == "base"]
    assert cell["judge"]["value"] == pytest.approx(sum(line["judgement"] for line in ours) / 12)
    assert all(0 <= line["confidence"] <= 1 for line in ours)
    surprise, tokens = (sum(line[name] for line in ours) for name in ("surprise", "tokens"))
    assert cell["perplexity"]["value"] == pytest.approx(math.exp(surprise / tokens))
    evaluation = read_evaluation(tmp_path)
    for name in ("perplexity", "consistency"):
        shown = group_report(read_answered(tmp_path), [["voice"]], QuietLog(), metrics=[name])
        assert {one["variant"] for one in shown["results"]} == {"base", "other"}
        assert shown["results"][0]["overall"]["value"] == pytest.approx(cell[name]["value"])
        by_voice = {each["name"]: each["value"] for each in shown["results"][0]["groups"]}
        assert by_voice == pytest.approx({v: f["value"] for v, f in cell[name]["groups"]["voice"].items()})
        sums = evaluation.sums(name, evaluation.shared("text", "base")[0])
        assert sums is not None
        assert sums.observed == pytest.approx(cell[name]["value"])
    alike = []
    for line in ours:
        assert [each["prompt"] for each in line["paraphrases"]] == [
            f"Please answer this: {line['prompt']}",
            f"{line['prompt']} Please answer.",
        ]
        one, two, three = (
            text.casefold().split() for text in (line["output"], *(p["output"] for p in line["paraphrases"]))
        )
        alike += [one == two, one == three, two == three]
    if not any(character in ".,;:!?" for line in ours for character in line["output"]):
        assert cell["consistency"]["value"] == pytest.approx(sum(alike) / len(alike))
    assert cell["consistency"]["n"] == 12
    assert {name: each["n"] for name, each in cell["exact_match"]["groups"]["voice"].items()} == {
        "v0": 10,
        "v1": 2,
    }
    about = told(tmp_path)["judge"]
    pair = about["pairs"]["text"]["other"]
    assert (about["sha256"], pair["n"]) == (judge.fingerprint, 12)
    assert pair["ci"][0] <= pair["value"] <= pair["ci"][1]
    assert set(about["verbosity"]["text"]) == {"base", "other"}

"""Sweeps: grids from comma lists, TPE that prunes and goes on after a kill, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from PIL import Image

from apps.cli import main
from apps.comma_lists import split_lists
from recipes import sft, sweep
from recipes._space import Choice, Range, read_space
from recipes._trials import folder_name, nested
from studio.config import from_dict
from studio.errors import ConfigError, TriptychError
from studio.log import QuietLog
from studio.runs import read_run
from studio.types import Run

ROOT = Path(__file__).resolve().parents[2]


class Said(QuietLog):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def swept(settings: dict[str, Any], log: QuietLog | None = None) -> Run:
    return sweep.run(from_dict(sweep.Config, settings), log or QuietLog())


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return found


@pytest.fixture
def training(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "output"} | {
        "eval_data": settings["data"], "evaluate": {"every": 2, "answers": 0},
    }  # fmt: skip


def test_commas_list_values_only_where_a_comma_cannot_belong_to_one() -> None:
    def lists(*overrides: str) -> tuple[list[str], dict[str, list[str]]]:
        return split_lists(sft.Config, overrides)

    assert lists("lr=1e-4,2e-4", "seed=1") == (["seed=1"], {"lr": ["1e-4", "2e-4"]})
    assert lists("adapter.r=8, 16") == ([], {"adapter.r": ["8", "16"]})
    assert lists("data=a,b") == ([], {"data": ["a", "b"]})
    assert lists("towers.vision=lora,frozen") == ([], {"towers.vision": ["lora", "frozen"]})
    assert lists(r"data=a\,b") == (["data=a,b"], {})
    assert lists(r"data=a\,b,c") == ([], {"data": ["a,b", "c"]})
    assert lists("data=Hello, you") == (["data=Hello, you"], {})
    for whole in ("augment=[{blur: {p: 0.5}}, {jpeg: {}}]", "length={policy: fit, max_tokens: 9}", "strange"):
        assert lists(whole) == ([whole], {})
    assert lists("towers={vision: lora},{vision: full}")[1] == {
        "towers": ["{vision: lora}", "{vision: full}"]
    }
    # What is a list by itself is never taken apart.
    from recipes import curate

    assert split_lists(curate.Config, ["steps=normalise,language"]) == (["steps=normalise,language"], {})


def test_the_command_runs_every_combination(
    training: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    line = [
        "run", "sft", f"model={training['model']}", f"data={training['data']}",
        f"eval_data={training['data']}",
        f"output={out}", "max_steps=2", "batch_size=8", "evaluate.answers=0", "lr=1e-3,1e-4", "adapter.r=2,4",
    ]  # fmt: skip
    assert main(line) == 0
    found = told(out)
    assert sorted((t["chosen"]["lr"], t["chosen"]["adapter.r"]) for t in found["trials"]) == [
        (1e-4, 2), (1e-4, 4), (1e-3, 2), (1e-3, 4),
    ]  # fmt: skip
    assert found["best"]["value"] == min(trial["value"] for trial in found["trials"])
    for trial in found["trials"]:
        record = read_run(out / trial["folder"])
        assert record is not None
        assert record.state == "finished"
        assert record.config["lr"] == trial["chosen"]["lr"]
        assert record.config["adapter"]["r"] == trial["chosen"]["adapter.r"]
        assert record.metrics["eval_loss"] == pytest.approx(trial["value"])
    with Image.open(out / "sweep.png") as picture:
        assert picture.format == "PNG"
    assert (out / "trials" / "lr=0.001,adapter.r=2" / "report.html").is_file()
    assert "adapter.r" in capsys.readouterr().err

    # The same line again has nothing left to do.
    before = {file: file.stat().st_mtime_ns for file in (out / "trials").rglob("*")}
    assert main(line) == 0
    assert before == {file: file.stat().st_mtime_ns for file in (out / "trials").rglob("*")}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["lr=1e-3,zero"], "lr must be a number"),
        (["output=a,b"], "one folder, for the whole grid"),
        (["lr=1e-3,1e-4", "--find-lr"], "lr lists several values"),
        (["lr=1e-3,1e-4", "--nproc", "2"], "sweep runs in one process"),
    ],
)
def test_mistakes_in_a_grid_are_told_before_its_first_run(
    overrides: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = (
        overrides if any(o.startswith("output") for o in overrides) else [*overrides, f"output={tmp_path}/x"]
    )
    assert main(["run", "sft", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_tpe_searches_a_space_prunes_and_writes_what_it_tried(
    training: dict[str, Any], tmp_path: Path
) -> None:
    log = Said()
    done = swept(
        {
            "settings": training | {"max_steps": 6}, "output": str(tmp_path / "s"), "trials": 7, "seed": 3,
            "space": {"lr": {"low": "1e-6", "high": 0.1, "log": True}, "adapter": {"r": [2, 4]}},
        },
        log,
    )  # fmt: skip
    found = told(done.folder)["trials"]
    assert len(found) == 7
    assert all(1e-6 <= trial["chosen"]["lr"] <= 0.1 for trial in found)
    assert {trial["chosen"]["adapter.r"] for trial in found} <= {2, 4}
    pruned = [trial for trial in found if trial["state"] == "pruned"]
    assert done.metrics["pruned"] == len(pruned) > 0
    for trial in pruned:  # worse than the median of the others at the same step, and cut short there
        step, value = list(trial["evaluations"].items())[-1]
        others = sorted(
            t["evaluations"][step] for t in found[: trial["trial"] - 1] if step in t["evaluations"]
        )
        assert value > others[(len(others) - 1) // 2]
        assert read_run(done.folder / trial["folder"]).state == "running"  # type: ignore[union-attr]
    assert done.metrics["best"] == min(t["value"] for t in found if t["state"] == "complete")
    assert any(line.startswith("trial") and "lr" in line for line in log.lines)


def test_a_killed_sweep_goes_on_and_finds_the_same(training: dict[str, Any], tmp_path: Path) -> None:
    settings = {
        "settings": training | {"max_steps": 4, "save_every": 1}, "trials": 3, "seed": 1, "prune": False,
        "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }  # fmt: skip
    whole = swept(settings | {"output": str(tmp_path / "whole")})
    config = tmp_path / "sweep.json"
    config.write_text(json.dumps(settings | {"output": str(tmp_path / "cut")}))
    child = subprocess.Popen(
        [sys.executable, "-m", "apps.cli", "run", "sweep", "--config", str(config)], cwd=ROOT,
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # In the middle of the second trial, after it has saved a state.
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        states = list((tmp_path / "cut" / "trials").glob("*/last/state.json"))
        if len(states) == 2:
            break
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    running = [s.parent.parent for s in states if read_run(s.parent.parent).state == "running"]  # type: ignore[union-attr]
    log = Said()
    cut = swept(settings | {"output": str(tmp_path / "cut")}, log)
    assert any("going on: 1 of 3 trials are done" in line for line in log.lines) or not running
    assert [t["chosen"] for t in told(cut.folder)["trials"]] == [
        t["chosen"] for t in told(whole.folder)["trials"]
    ]
    values = [trial["value"] for trial in told(whole.folder)["trials"]]
    assert [trial["value"] for trial in told(cut.folder)["trials"]] == pytest.approx(values, abs=1e-6)
    assert all(trial["state"] == "complete" for trial in told(cut.folder)["trials"])

    # More trials go on from there.
    more = swept(settings | {"output": str(tmp_path / "cut"), "trials": 4})
    assert more.metrics["trials"] == 4
    assert [t["value"] for t in told(more.folder)["trials"]][:3] == pytest.approx(values, abs=1e-6)


@pytest.mark.slow
def test_trials_side_by_side_give_the_values_of_one_after_the_other(
    training: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"settings": training, "space": {"lr": [1e-3, 1e-4]}, "search": "grid"}
    one = swept(settings | {"output": str(tmp_path / "one")})
    two = swept(settings | {"output": str(tmp_path / "two"), "parallel": 2})

    def values(done: Run) -> dict[float, float]:
        return {trial["chosen"]["lr"]: trial["value"] for trial in told(done.folder)["trials"]}

    assert values(one) == pytest.approx(values(two), rel=1e-5)


def test_a_trial_that_diverges_fails_alone(training: dict[str, Any], tmp_path: Path) -> None:
    done = swept(
        {
            "settings": training | {"max_steps": 6, "optimiser": {"clip": 0, "warmup": 0}}, "search": "grid",
            "space": {"lr": [1e30, 1e-3]}, "output": str(tmp_path / "s"),
        }
    )  # fmt: skip
    assert done.metrics["failed"] == 1
    failed = next(trial for trial in told(done.folder)["trials"] if trial["state"] == "fail")
    assert "the loss is" in failed["why"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"space": {}}, "space must name at least one"),
        ({"space": {"lr": []}}, r"space\.lr must be a list"),
        ({"space": {"lr": {"low": 1, "high": 0}}}, "low < high"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, "low > 0 for log"),
        ({"space": {"lr": {"low": 0, "hihg": 1}}}, "did you mean 'high'"),
        ({"space": {"lr": {"low": 0.1, "high": 1}}, "search": "grid"}, "is a range"),
        ({"space": {"lrr": [1]}, "search": "grid"}, "unknown setting 'lrr'"),
        ({"space": {"lr": [1]}, "recipe": "stf"}, "did you mean 'sft'"),
        ({"space": {"lr": [1]}, "trials": 0}, "trials must be more than 0"),
        ({"space": {"lr": [1]}, "settings": {"output": "x"}}, "the sweep's to choose"),
        ({"space": {"lr": [1]}, "storage": "sqlite:////proc/no/where.db"}, "storage: cannot open"),
    ],
)
def test_mistakes_are_one_sentence(wrong: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TriptychError, match=sentence):
        swept({"output": str(tmp_path / "s"), **wrong})


def test_a_metric_that_no_trial_reports_is_told_with_those_there_are(
    training: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"does not report 'accuracy'; it reports steps, loss"):
        swept(
            {
                "settings": training,
                "space": {"lr": [1e-3]},
                "metric": "accuracy",
                "output": str(tmp_path / "s"),
            }
        )


def test_spaces_are_read_nested_or_dotted() -> None:
    assert read_space({"adapter": {"r": [1, 2]}, "lr": {"low": "1e-4", "high": 1}}) == read_space(
        {"adapter.r": [1, 2], "lr": {"low": 1e-4, "high": 1}}
    )
    assert read_space({"a": {"low": 1, "high": 9, "step": 2}}) == {"a": Range(low=1, high=9, step=2)}
    assert read_space({"a": [[1], "b"]}) == {"a": Choice(values=([1], "b"))}
    assert nested({"adapter.r": 4, "lr": 1}, {"adapter": {"alpha": 2}}) == {
        "adapter": {"alpha": 2, "r": 4},
        "lr": 1,
    }


def test_folders_are_named_by_what_was_chosen_and_never_collide() -> None:
    assert folder_name({"lr": 1e-3, "adapter.r": 8}) == "lr=0.001,adapter.r=8"
    assert folder_name({"data": "a/b"}) != folder_name({"data": "a_b"})
    assert len(folder_name({f"setting{i}": "x" * 30 for i in range(9)})) <= 80
    assert optuna.__version__ >= "4"

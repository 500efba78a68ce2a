"""The command line as a user meets it: every call is a process of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.cli import COMMANDS, main
from studio import plugins

ROOT = Path(__file__).parents[2]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def triptych(tmp_path: Path) -> Call:
    """Return a function that runs `triptych ...` in a fresh folder."""

    def call(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "apps.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
            **more,
        )

    return call


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of rows with text alone."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a red circle"}]
    file.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(3)))
    return file


@pytest.fixture(scope="module")
def experts(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a tiny base, and the folders of two runs with an adapter on it."""
    import torch

    from studio.adapters import add_lora, save_adapter
    from studio.families import family

    base, made = tiny("qwen_omni"), {"base": tiny("qwen_omni")}
    kind = family("qwen_omni")
    for seed, name in enumerate(("first", "second")):
        model = add_lora(kind.load(base).model, kind, ["llm"], r=2, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        for path, value in model.named_parameters():
            if "lora_B" in path:
                value.data.normal_(std=0.1, generator=draw)
        made[name] = tmp_path_factory.mktemp("runs") / name
        save_adapter(model, made[name] / "adapter", base=base, family=kind)
    return made


def mistake(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence about a user's mistake."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("triptych: ")
    return done.stderr


def test_help_lists_every_command_with_what_it_does(triptych: Call) -> None:
    for arguments in ((), ("--help",), ("help",)):
        done = triptych(*arguments)
        assert done.returncode == 0
        assert [c for c in COMMANDS if not re.search(rf"^  {c} +\w.*\.$", done.stdout, re.M)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_describes_it_and_gives_an_example(triptych: Call, command: str) -> None:
    done = triptych(command, "--help")
    assert done.returncode == 0
    description, _, example = done.stdout.partition("\nexample:\n")
    assert len(description.split("\n\n")[1]) > 20
    assert f"triptych {command}" in example
    assert triptych("help", command).stdout == done.stdout


def test_version(triptych: Call) -> None:
    assert re.fullmatch(r"triptych \d+\.\d+\.\d+\n", triptych("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["evl"], "did you mean 'eval'"),
        (["ls", "recipe"], "did you mean 'recipes'"),
        (["demo", "--no-ap"], "did you mean '--no-app'"),
        (["run", "stf"], "did you mean 'sft'"),
        (["run", "sft", "learning=1"], "unknown setting 'learning'"),
        (["run", "sft", "--preset", "smoek"], "did you mean 'smoke'"),
        (["run", "sft", "lr=high", "modle=x"], "2 settings are wrong"),
        (["run", "sft", "model=no-such-model"], "there is no model 'no-such-model'"),
        (["run", "sft", "--config", "none.yaml"], "cannot read the configuration none.yaml"),
        (["merge", "--method", "tees", "a", "b", "-o", "out"], "did you mean 'ties'"),
        (["merge", "--method", "ties", "a", "b"], "where to? give -o OUT"),
        (["merge", "a", "b", "-o", "out"], "give --method"),
        (["merge", "--method", "ties", "a", "-o", "out", "--density"], "--density needs a value"),
        (["merge", "none.yaml", "-o", "out"], "none.yaml"),
        (["merge", "--method", "ties", "no-a", "no-b", "-o", "out"], "there is no model 'no-a'"),
        (["eval", "no-such-model", "--data", "x.jsonl"], "there is no model 'no-such-model'"),
        (["eval", "x", "--data", "y", "--metric", "exact-mach"], "did you mean 'exact_match'"),
        (["app", "no-such-model"], "there is no model 'no-such-model'"),
        (["show", "tiez"], "did you mean 'ties'"),
        (["show", "runs/none"], "there is no folder runs/none"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("triptych: ")
    assert hint in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["evl"], ["run", "sft", "lr=high", "modle=x"]], ids=" ".join)
def test_a_mistake_shows_no_traceback(triptych: Call, arguments: list[str]) -> None:
    mistake(triptych(*arguments))


def test_a_value_that_is_missing_or_no_number_is_told_with_the_usage(triptych: Call) -> None:
    for arguments in (["demo", "--port", "many"], ["eval"], ["run"]):
        done = triptych(*arguments)
        assert done.returncode == 2
        assert "usage: triptych" in done.stderr
        assert "Traceback" not in done.stderr


def test_ls_shows_rooms_names_and_summaries(triptych: Call) -> None:
    shown = triptych("ls").stdout
    assert re.search(r"^recipes$", shown, re.M)
    assert re.search(r"^  ties +TIES: ", shown, re.M)
    assert "recipes" not in triptych("ls", "methods").stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m apps.cli ls | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        assert done.returncode in (0, 1)


@pytest.mark.parametrize("name", ["sft", "ties", "whisper", "wer"])
def test_show_tells_settings_and_docstring(triptych: Call, name: str) -> None:
    done = triptych("show", name)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout.splitlines()[0]
    expected = {"sft": "peak learning rate", "ties": "density", "whisper": "audio", "wer": "lower is better"}
    assert expected[name] in done.stdout


@pytest.mark.parametrize("room", plugins.ROOMS)
def test_show_knows_everything_that_is_listed(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in plugins.names(room):
        assert main(["show", name]) == 0
        shown = capsys.readouterr().out
        assert f"{plugins.KINDS[room]} {name}\n" in shown
        assert len(shown.splitlines()) > 4


def test_show_sums_up_a_model_an_adapter_and_a_run(
    triptych: Call, experts: dict[str, Path], tmp_path: Path
) -> None:
    assert "model_type   qwen2_5_omni_thinker" in triptych("show", experts["base"]).stdout
    assert "of rank 2" in triptych("show", experts["first"] / "adapter").stdout
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "sft", "seed": 3, "metrics": {"loss": 0.25}}))
    shown = triptych("show", tmp_path).stdout
    assert re.search(r"recipe +sft", shown)
    assert re.search(r"loss +0\.25", shown)
    (tmp_path / "run.json").write_text("[")
    assert "does not describe a run" in mistake(triptych("show", tmp_path))


def test_doctor_tells_versions_and_what_is_missing(triptych: Call) -> None:
    done = triptych("doctor")
    assert done.returncode == (1 if "\nbroken " in f"\n{done.stdout}" else 0)
    assert re.search(r"^ok +torch +\d", done.stdout, re.M)
    assert re.search(r"^\w+ +(CUDA|cuda:0) ", done.stdout, re.M)
    assert done.stdout.splitlines()[-1] in (
        "all that is needed is here",
        "something that is needed is broken",
    )


def test_merge_by_flags_then_eval_writes_a_table_and_scores(
    triptych: Call, experts: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    flags = ["merge", "--method", "ties", "--base", experts["base"], f"{experts['first']}:0.6"]
    flags += [f"{experts['second']}/adapter:0.4", "--density", "0.5", "-o", "merged"]
    planned = triptych(*flags, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "density=0.5" in planned.stdout
    assert list(tmp_path.iterdir()) == []
    merged = triptych(*flags)
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "merged/adapter_config.json").is_file()

    models = [experts["base"], f"one={experts['first']}", f"{experts['base']}+merged"]
    done = triptych(
        "eval",
        *models,
        "--data",
        rows,
        "--metric",
        "wer",
        "--metric",
        "exact-match",
        "--out",
        "scores",
        "--card",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\bone\b", done.stdout)
    assert re.search(r"\bmerged\b", done.stdout)
    told = json.loads((tmp_path / "scores/evaluation.json").read_text())
    cells = told["results"][str(rows)]
    assert list(cells) == [experts["base"].name, "one", "merged"]
    assert all(cell["n"] == 3 and cell["ci"][0] <= cell["value"] <= cell["ci"][1] for cell in cells.values())
    assert f"{cells['merged']['value']:.3f} [" in (tmp_path / "merged/README.md").read_text()
    assert "none of the models is one" in mistake(triptych("eval", *models[:2], "--data", rows, "--card"))

    rules = ["--must", f"{rows}.exact_match >= 0", "--must", f"one: {rows}.exact_match > 1"]
    broken = triptych("eval", *models, "--data", rows, "--out", "scores", *rules)
    assert broken.returncode == 1, broken.stderr
    assert re.findall(r"^(kept|BROKEN) +(\S+): ", broken.stdout, re.M)[-1] == ("BROKEN", "one")


def test_merge_by_a_file_does_what_the_file_says(
    triptych: Call, experts: dict[str, Path], tmp_path: Path
) -> None:
    models = [str(experts[name] / "adapter") for name in ("first", "second")]
    (tmp_path / "merge.yaml").write_text(json.dumps({"method": "linear", "models": models}))
    done = triptych("merge", "merge.yaml", "-o", "out", "--rank", "2")
    assert done.returncode == 0, done.stderr
    assert "of rank 2" in triptych("show", "out").stdout


def test_merging_adapters_of_different_bases_is_refused_before_a_byte_is_written(
    triptych: Call, experts: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in (experts["second"] / "adapter").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    note = json.loads((other / "triptych.json").read_text())
    (other / "triptych.json").write_text(json.dumps({**note, "base_fingerprint": "0" * 64}))
    mistake(triptych("merge", "--method", "linear", experts["first"], other, "-o", "out"))
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(
    triptych: Call, experts: dict[str, Path], tmp_path: Path
) -> None:
    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    flags = ["merge", "--method", "linear", experts["first"], experts["second"], "-o", "out"]
    done = triptych(*flags, preexec_fn=small_disk)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_repeated_from_its_folder(
    triptych: Call, experts: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    settings = [f"model={experts['base']}", f"data={rows}", "max_steps=1", "batch_size=2", "adapter.r=2"]
    done = triptych("run", "sft", "--preset", "smoke", *settings, "output=one")
    assert done.returncode == 0, done.stderr
    again = triptych("run", "sft", "--config", "one", "output=two")
    assert again.returncode == 0, again.stderr
    first, second = (
        json.loads((tmp_path / name / "run.json").read_text())["config"] for name in ("one", "two")
    )
    assert {**first, "output": ""} == {**second, "output": ""}
    for name in ("one", "two"):
        assert (tmp_path / name / "adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "one/adapter/adapter_model.safetensors").read_bytes() == (
        tmp_path / "two/adapter/adapter_model.safetensors"
    ).read_bytes()

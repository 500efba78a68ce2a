"""Augmentation in the recipe sft: drawn anew in each epoch, the same after a kill, never the end of a run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import sft
from studio import families
from studio.augment._steps import read_steps
from studio.config import from_dict, load
from studio.data import load_data, write_jsonl
from studio.data.lengths import Rules
from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.encoding import encode_samples, open_encoded
from studio.training.epochs import CHANGED, PLAIN, Epochs
from studio.training.tracking import read_metrics
from studio.types import Run

Data = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
STEPS: list[dict[str, Any]] = [
    {"speed": {"factor": [0.8, 1.2]}},
    {"noise": {"p": 0.5}},
    {"specaugment": {}},
    {"crop": {"share": [0.4, 0.9]}},
    {"colour": {}},
    {"deletion": {"rate": 0.3}},
]
SCRIPT = (
    "import sys; from recipes import sft; from studio.config import load; from studio.log import PlainLog\n"
    "sft.run(load(sft.Config, overrides=sys.argv[1:]), PlainLog(every=0))"
)


def run(settings: dict[str, Any], log: Any = None, **more: Any) -> Run:
    return sft.run(from_dict(sft.Config, {"augment": STEPS, **settings, **more}), log or QuietLog())


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


def epochs(settings: dict[str, Any], folder: Path, steps: list[dict[str, Any]], **more: Any) -> Epochs:
    model = Path(settings["model"])
    gauge = families.gauge(model)
    rows = load_data(settings["data"], split="train")
    rules = more.pop("rules", Rules())
    encode_samples(gauge, rows, folder, QuietLog(), rules=rules)
    plain = open_encoded(gauge, rows, folder, rules)
    return Epochs(plain, gauge, rows, folder, QuietLog(), steps=read_steps(steps), rules=rules, **more)


def same(one: Any, other: Any) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def test_every_epoch_has_rows_of_its_own_and_the_same_whenever_it_is_asked_for(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    made = epochs(settings, tmp_path / "one", STEPS)
    first = [dict(item) for item in made.of(0)]
    second = [dict(item) for item in made.of(1)]
    assert not same(first, second)
    assert [folder.name for folder in (tmp_path / "one").glob("epoch-*")] == ["epoch-1"]
    other = epochs(settings, tmp_path / "two", STEPS)
    assert same(other.of(1), second), "the second epoch first, in another folder"
    assert same(other.of(0), first)
    assert not same(epochs(settings, tmp_path / "three", STEPS, seed=1).of(0), first)
    assert not list((tmp_path / "two").rglob("media-*")), "what was written on the way is gone"


def test_the_next_epoch_is_made_meanwhile_and_is_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    with epochs(settings, tmp_path / "ahead", STEPS, worth=0.0) as made:
        first = [dict(item) for item in made.of(0, ahead=True)]
        threads, deadline = torch.get_num_threads(), time.monotonic() + 60
        while not list((tmp_path / "ahead/epoch-1").glob("*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
        (file,) = (tmp_path / "ahead/epoch-1").glob("*.safetensors")
        written = file.stat().st_mtime_ns
        second = [dict(item) for item in made.of(1)]
        assert file.stat().st_mtime_ns == written
        assert torch.get_num_threads() == threads
    other = epochs(settings, tmp_path / "plain", STEPS)
    assert same(other.of(0), first)
    assert same(other.of(1), second)


def test_what_is_made_meanwhile_ends_with_the_training(settings: dict[str, Any], tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    with epochs(settings, tmp_path, STEPS, worth=0.0) as made:
        made.of(0, ahead=True)
        deadline = time.monotonic() + 30
        while not set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = set(multiprocessing.active_children()) - before
        assert workers
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert set(multiprocessing.active_children()) <= before
    assert not list(tmp_path.glob("epoch-1/.*.safetensors.*"))


def test_answers_and_what_is_learned_stay(settings: dict[str, Any], tmp_path: Path) -> None:
    plain, changed = (epochs(settings, tmp_path, steps).of(0) for steps in ([], STEPS))
    assert changed.learned == plain.learned
    assert changed.rows == plain.rows
    assert changed.weights == plain.weights
    for before, after in zip(plain, changed, strict=True):
        assert torch.equal(*(item["labels"][item["labels"] != -100] for item in (before, after)))


def test_processes_share_the_work_and_get_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    alone = epochs(settings, tmp_path / "alone", STEPS).of(0)
    second = epochs(settings, tmp_path / "shared", STEPS, part=(1, 2))
    with pytest.raises(FileNotFoundError):
        second.of(0)  # the one shard there is, is the first process's
    assert same(epochs(settings, tmp_path / "shared", STEPS, part=(0, 2)).of(0), alone)
    assert same(second.of(0), alone)


def test_a_row_that_no_longer_fits_is_trained_plain_and_counted(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Slowed down, some sounds need more tokens than are allowed; the plain rows need all that there are."""
    plain = epochs(settings, tmp_path / "free", []).of(0)
    most = max(plain.lengths)
    slow = [{"speed": {"factor": [0.5, 0.5]}}]
    made = epochs(settings, tmp_path / "tight", slow, rules=Rules(max_tokens=most))
    changed = made.of(0)
    assert 0 < changed.fitted[PLAIN] < len(changed)
    assert changed.fitted[PLAIN] + changed.fitted[CHANGED] == len(changed)
    assert max(changed.lengths) <= most
    longer = sum(after > before for after, before in zip(changed.lengths, plain.lengths, strict=True))
    assert longer > 0


def test_a_killed_run_that_augments_goes_on_as_if_nothing_had_happened(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    more = {"max_steps": 24, "save_every": 3}
    given = {**settings, **more, "augment": STEPS, "output": tmp_path / "killed"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *(f"{key}={value}" for key, value in given.items())],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while len(losses(tmp_path / "killed")) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # SIGKILL: no handler runs
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 6 <= len(losses(tmp_path / "killed")) < 24
    run(settings, output=str(tmp_path / "killed"), **more)
    run(settings, output=str(tmp_path / "whole"), **more)
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    assert len(losses(tmp_path / "killed")) == 24
    assert not (tmp_path / "killed" / "encoded").exists()


def test_a_run_says_what_it_was_augmented_with_and_trains_on_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    run(settings)
    run(settings, output=str(tmp_path / "plain"), augment=[])
    assert losses(Path(settings["output"])) != losses(tmp_path / "plain")
    record, plain = read_run(Path(settings["output"])), read_run(tmp_path / "plain")
    assert record is not None
    assert plain is not None
    assert record.config["augment"] == STEPS
    assert "augment" in record.inputs
    assert "augment" not in plain.inputs
    with pytest.raises(ConfigError, match="the contents of augment changed"):
        run(settings, augment=STEPS[:1])


def test_mistakes_are_told_before_anything_is_loaded(settings: dict[str, Any], data: Data) -> None:
    with pytest.raises(ConfigError, match=r"augment\.crop: unknown setting 'shere'; did you mean 'share'"):
        run(settings, augment=[{"crop": {"shere": 1}}])
    flip = load(sft.Config, overrides=['augment=[{flip: {labels: "none of [circle]"}}]']).augment
    with pytest.raises(DataError, match=r"train\.jsonl:2: it says 'circle', which flip would make untrue"):
        run(settings, augment=flip)
    with pytest.raises(ConfigError, match="clap is an unknown setting 'clap'; did you mean 'clip'"):
        run(settings, **{"optimiser.clap": 1})
    assert not Path(settings["output"]).exists()


@pytest.mark.slow
def test_two_workers_make_what_one_process_makes(
    settings: dict[str, Any], data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data()
    write_jsonl(folder / "train.jsonl", load_data(folder, split="train") * 10)
    given = {**settings, "data": str(folder)}
    alone = epochs(given, tmp_path / "alone", STEPS).of(0)
    monkeypatch.setenv("TRIPTYCH_WORKERS", "2")
    assert same(epochs(given, tmp_path / "two", STEPS).of(0), alone)
    assert len(list((tmp_path / "two" / "epoch-0").glob("*.safetensors"))) == 2

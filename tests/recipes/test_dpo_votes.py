"""From votes in the app's store to a run of the recipe dpo, by the commands that a user types."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from studio.runs import read_run
from studio.store import Store, media_folder
from studio.training.tracking import read_metrics
from studio.types import Sample


@pytest.fixture
def exported(questions: Callable[[str, int], list[Sample]], tmp_path: Path) -> Path:
    """Return the export of 12 votes on pictures and sounds: two are "both bad", one has a correction."""
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    media = media_folder(url)
    assert media is not None
    media.mkdir()
    with Store(url) as store:
        for at, sample in enumerate(questions("qwen_omni", 12)):
            hashes = []
            for part in (*sample.images, *sample.sounds):
                hashes.append(hashlib.sha256(part.path.read_bytes()).hexdigest())
                shutil.copy(part.path, media / f"{hashes[-1]}{part.path.suffix}")
            number = store.add_comparison(f"question {at}", ["one", "two", "three"], media=hashes)
            for name, text in (("one", "yes"), ("two", f"no {at}"), ("three", "no no")):
                store.add_answer(number, name, text)
            store.vote(
                number, "one" if at < 10 else "both bad", rater="jane", correction="yes" if at == 11 else ""
            )
    assert main(["votes", "--store", url, "--export", str(tmp_path / "preferences")]) == 0
    return tmp_path / "preferences"


def run(exported: Path, tiny: Callable[[str], Path], output: Path, *more: str) -> int:
    return main(
        ["run", "dpo", f"model={tiny('qwen_omni')}", f"data={exported}", f"output={output}", "max_steps=3",
         "adapter.r=4", "lr=1e-2", "evaluate.answers=2", *more]
    )  # fmt: skip


def test_exported_votes_improve_an_adapter(
    exported: Path, tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(exported, tiny, tmp_path / "first", "max_steps=10") == 0
    record = read_run(tmp_path / "first")
    assert record is not None
    assert record.metrics["eval_margin"] > 0
    # Ten votes, each against two others; whole questions are held out.
    assert record.metrics["eval_preferences"] % 2 == 0
    capsys.readouterr()
    output = tmp_path / "second"
    start = ["loss=simpo", f"adapter.start={tmp_path / 'first'}", f"output={output}", "max_steps=2"]
    assert main(["run", "dpo", f"model={tiny('qwen_omni')}", f"data={exported}", *start]) == 0
    assert (output / "adapter" / "adapter_model.safetensors").is_file()
    assert "adapter.start" in read_run(output).inputs  # type: ignore[union-attr]
    card = (output / "README.md").read_text()
    assert "triptych serve" in card


def test_kto_learns_from_both_bad_too(
    exported: Path, tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "kto"
    assert run(exported, tiny, output, "loss=kto", "votes.hold_out=0") == 0
    # Ten best answers and twenty others, and two times three that were bad.
    assert "36 preferences to learn from, 0 held out" in capsys.readouterr().err
    assert all("kl" in row for row in read_metrics(output) if "loss" in row)
    (exported / "preferences.jsonl").unlink()
    assert run(exported, tiny, tmp_path / "labels", "loss=kto", "votes.hold_out=0") == 0
    assert "16 preferences to learn from" in capsys.readouterr().err
    assert run(exported, tiny, tmp_path / "none") == 2
    assert (
        "holds no preferences; answers that are called good or bad are for loss=kto"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()


def test_a_dry_run_tells_memory_and_time(
    exported: Path, tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(exported, tiny, tmp_path / "never", "--dry-run") == 0
    assert "peak memory" in capsys.readouterr().out
    assert not (tmp_path / "never").exists()


def test_the_report_says_in_words_whether_preference_accuracy_rose(tmp_path: Path) -> None:
    from studio.training.preference_verdict import before_and_after, told

    def rows(held: float, trained: float) -> list[dict[str, Any]]:
        steps = [{"step": at, "loss": 0.5, "ranking": trained} for at in range(1, 20)]
        looks = [
            {"step": 0, "eval_loss": 0.7, "eval_ranking": 0.5},
            {"step": 19, "eval_loss": 0.2, "eval_ranking": held},
        ]
        return [*steps, *looks]

    def sentence(held: float, trained: float, count: int) -> str:
        given = rows(held, trained)
        return told(before_and_after(given, 19, count), given)

    assert "preference accuracy rose by 40.0 points. It does not overfit" in sentence(0.9, 0.95, 100)
    assert "preference accuracy fell by 30.0 points" in sentence(0.2, 0.25, 100)
    assert "no certain change" in sentence(0.6, 0.65, 20)
    assert "It overfits: of those that it learned from at the end it was 99.0 %" in sentence(0.7, 0.99, 100)
    assert told({"loss": 1.0}, [{"step": 1, "loss": 1.0}]) == ""
    assert json.dumps(before_and_after([], 3, 0)) == '{"eval_preferences": 0.0}'

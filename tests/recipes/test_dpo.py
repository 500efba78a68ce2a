"""The recipe dpo on real tiny models: learning, equivalence, the reference, resuming, rows and mistakes."""

from __future__ import annotations

import dataclasses
import json
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
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from recipes import dpo
from studio import families
from studio.adapters import load_adapter
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.runs import read_run
from studio.training.loss import TokenLoss
from studio.training.preference_data import joined, rows_of
from studio.training.preference_loss import PreferenceLoss
from studio.training.preference_rows import hold_out, mismatched, pairs, verdicts, wrong_answers
from studio.training.tracking import read_metrics
from studio.types import Image, Run, Sample, Sound, Text, Turn

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import sys; from recipes import dpo; from studio.config import load; from studio.log import PlainLog\n"
    "dpo.run(load(dpo.Config, overrides=sys.argv[1:]), PlainLog(every=0))"
)


def said(text: str) -> tuple[Turn, ...]:
    return (Turn(role="assistant", parts=(Text(text=text),)),)


@pytest.fixture(scope="session")
def preferred(plain_data: Path) -> Path:
    """Return a folder with preferences about pictures, sounds and both: the judge wants "yes", never "no"."""
    folder = plain_data / "preferred"
    (folder / "media").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = []
        for at, row in enumerate(load_data(plain_data, split)):
            turns = []
            for turn in row.prompt:
                parts = []
                for part in turn.parts:
                    if isinstance(part, Image | Sound):
                        path = folder / "media" / part.path.name
                        path.write_bytes(part.path.read_bytes())
                        part = dataclasses.replace(part, path=path)
                    parts.append(part)
                turns.append(dataclasses.replace(turn, parts=tuple(parts)))
            long = " indeed" * (at % 3)
            rows.append(
                dataclasses.replace(
                    row, turns=tuple(turns), chosen=said(f"yes{long}"), rejected=said(f"no {row.answer}")
                )
            )
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def settings(tiny: Callable[[str], Path], preferred: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny("qwen_omni")), "data": str(preferred), "eval_data": str(preferred),
        "output": str(tmp_path / "run"), "max_steps": 4, "batch_size": 4, "accumulate": 1, "lr": 5e-3,
        "adapter": {"r": 4}, "optimiser": {"warmup": 1},
    }  # fmt: skip


def run(settings: dict[str, Any], log: QuietLog | None = None, **more: Any) -> Run:
    return dpo.run(from_dict(dpo.Config, {**settings, **more}), log or QuietLog())


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same(one: Path, other: Path, within: float) -> None:
    for key in ("loss", "margin", "kl", "eval_loss"):
        assert losses(one, key) == pytest.approx(losses(other, key), abs=within)
    a, b = adapter(one), adapter(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=within)


class Saying(QuietLog):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def found(self, begin: str) -> str:
        (line,) = [line for line in self.said if line.startswith(begin)]
        return line


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo", "simpo"])
def test_every_loss_learns_what_the_judge_wants_about_pictures_and_sounds(
    loss: str, settings: dict[str, Any]
) -> None:
    log = Saying()
    done = run(settings, log, loss=loss, max_steps=14, lr=2e-2, batch_size=8)
    record = read_run(done.folder)
    assert record is not None
    assert record.state == "finished"
    assert record.metrics["eval_accuracy"] == 1.0
    rows = [row for row in read_metrics(done.folder) if "margin" in row]
    assert rows[-1]["margin"] > rows[0]["margin"]
    assert ("kl" in rows[-1]) == (loss not in ("orpo", "simpo"))
    report = json.loads((done.folder / "report.json").read_text())
    assert "held-out preferences" in report["sentence"]
    assert {row["step"] for row in read_metrics(done.folder) if "eval_loss" in row} >= {0, 14}
    if loss != "kto":
        assert record.metrics["eval_ranking"] > record.metrics["eval_ranking_before"]
        assert "preference accuracy rose by" in report["sentence"] or record.metrics["eval_preferences"] < 10


def test_before_the_first_step_the_model_is_its_reference(settings: dict[str, Any]) -> None:
    folder = run(settings, max_steps=1).folder
    (first,) = [row for row in read_metrics(folder) if row["step"] == 0]
    assert first["eval_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert first["eval_accuracy"] == pytest.approx(0.5, abs=0.5)
    assert first["eval_kl"] == pytest.approx(0, abs=1e-9)
    (step,) = [row for row in read_metrics(folder) if "loss" in row]
    assert step["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_the_reference_is_the_model_with_its_adapter_off_or_the_adapter_of_the_start(
    settings: dict[str, Any], preferred: Path, tmp_path: Path
) -> None:
    """The margin that a run notes is that of both models, asked one by one without any of the run's parts."""
    first = run(settings, max_steps=4).folder
    settings = {key: value for key, value in settings.items() if key != "adapter"}
    again = {"adapter": {"start": str(first)}, "output": str(tmp_path / "again"), "max_steps": 3}
    second = run(settings, **again).folder
    base = Path(settings["model"])
    family = families.detect(base)
    rows = load_data(preferred, "test")

    def log_probs(adapter: Path | None) -> torch.Tensor:
        loaded = family.load(base)
        model = (load_adapter(loaded.model, adapter / "adapter") if adapter else loaded.model).eval()
        loss = TokenLoss(model, torch.device("cpu"))
        out = []
        for item in pairs(rows):
            for way in item.ways:
                batch = family.collate(
                    loaded.processor, [family.encode(loaded.processor, way, True)], "right"
                )
                with torch.no_grad():
                    out.append(loss.rows(model, batch, 1)[0])
        return torch.cat(out).view(-1, 2)

    off, start, end = (log_probs(one) for one in (None, first, second))
    weights = torch.tensor([row.weight for row in rows])
    for folder, before, after in ((first, off, start), (second, start, end)):
        record = read_run(folder)
        assert record is not None
        ratio = after - before
        margin = 0.1 * ((ratio[:, 0] - ratio[:, 1]) * weights).sum() / weights.sum()
        assert record.metrics["eval_margin"] == pytest.approx(margin.item(), abs=1e-5)
        now, was = ((one[:, 0] - one[:, 1]).double() for one in (after, before))
        kl = sum(
            torch.sigmoid(side * now) * (logsigmoid(side * now) - logsigmoid(side * was)) for side in (1, -1)
        )
        kl = (kl * weights).sum() / weights.sum()
        assert record.metrics["eval_kl"] == pytest.approx(kl.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_eight_at_once_are_one_by_one_eight_times(
    loss: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folders = []
    for batch, accumulate in ((8, 1), (1, 8), (3, 3)):
        size = {"batch_size": batch, "accumulate": accumulate, "output": str(tmp_path / f"{batch}")}
        folders.append(run(settings, loss=loss, **size).folder)
    assert_same(folders[0], folders[1], within=2e-5)
    assert losses(folders[2]) != losses(folders[0])  # nine to a step: other steps


def test_neither_the_cache_nor_any_shortcut_changes_the_losses(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    logs = [Saying(), Saying(), Saying()]
    folders = [run(settings, log, output=str(tmp_path / f"{at}")).folder for at, log in enumerate(logs[:2])]
    rows = [row for split in ("train", "test") for row in load_data(settings["data"], split)]
    count = int(logs[0].found("reference").split()[1])
    assert len(rows) < count <= 2 * len(rows)  # what is said twice of the same is computed once
    assert (
        logs[0].found("reference") == f"reference: {count} log-probabilities computed, 0 found in the cache"
    )
    assert (
        logs[1].found("reference") == f"reference: 0 log-probabilities computed, {count} found in the cache"
    )
    assert_same(folders[0], folders[1], within=0)
    # Another base, or another answer, is another reference.
    other = run(settings, logs[2], output=str(tmp_path / "2"), precision="bf16").folder
    assert logs[2].found("reference").startswith(f"reference: {count} log-probabilities computed")
    assert losses(other) != losses(folders[0])
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "new"))
    plain = dict.fromkeys(
        ("tower_cache", "prefetch", "packing", "products", "last_layer", "chunked_loss"), False
    )
    slow = run(settings, output=str(tmp_path / "plain"), speed=plain).folder
    assert_same(folders[0], slow, within=2e-5)
    packed = run(settings, output=str(tmp_path / "packed"), speed={"packing": True}).folder
    assert_same(folders[0], packed, within=2e-5)


@pytest.mark.parametrize(
    ("name", "learns"),
    [("qwen_omni", "vision audio"), ("qwen_omni", "audio"), ("smolvlm", "vision"), ("qwen2_audio", "audio")],
)
def test_towers_that_learn_run_once_for_both_answers(
    name: str, learns: str, tiny: Callable[[str], Path], data: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = data(name, 6, 2)
    rows = [
        dataclasses.replace(row, turns=row.prompt, chosen=said("yes"), rejected=said("no not at all"))
        for row in load_data(folder, "train")
    ]
    write_jsonl(folder / "votes.jsonl", rows)
    log = Saying()
    given = {
        "model": str(tiny(name)), "data": str(folder / "votes.jsonl"), "eval_data": None, "max_steps": 3,
        "towers": dict.fromkeys(("llm", *learns.split()), "lora"), "votes": {"hold_out": 0},
    }  # fmt: skip
    shared = run(settings, log, **given).folder
    assert log.found("shared_media").startswith("shared_media: on")

    def plainly(model: Any, gauge: Any, pairs: Any, collate: Any, *_: Any, **__: Any) -> Any:
        return joined(collate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "share_media", plainly)
        plain = run(settings, output=str(tmp_path / "plain"), **given).folder
    assert_same(shared, plain, within=2e-5)


def test_padding_changes_nothing_and_only_the_answer_counts(
    tiny: Callable[[str], Path], preferred: Path
) -> None:
    """A pair has the same loss alone and beside longer ones; what was said before is not learned from."""
    base = tiny("qwen_omni")
    family = families.detect(base)
    model, processor = family.load(base)
    samples = load_data(preferred, "train")
    before = (Turn(role="user", parts=(Text(text="first"),)), *said("something else"))
    samples[0] = dataclasses.replace(samples[0], turns=(*before, *samples[0].turns))
    items = pairs(samples)
    encoded = [[family.encode(processor, way, True) for way in item.ways] for item in items]
    ids = processor.tokenizer(samples[0].chosen[0].text, add_special_tokens=False)["input_ids"]
    labels = encoded[0][0]["labels"]
    assert labels[labels != -100][: len(ids)].tolist() == ids
    assert int((labels != -100).sum()) <= len(ids) + 2  # the end of the turn besides

    def loss(which: list[int]) -> torch.Tensor:
        told = [
            {"preference.reference": torch.tensor([-3.0, -5.0]), "preference.good": torch.tensor(True)}
            for _ in which
        ]
        given = [[encoded[at][0] | more, encoded[at][1]] for at, more in zip(which, told, strict=True)]
        tokens = TokenLoss(model.eval(), torch.device("cpu"))
        try:
            made = PreferenceLoss("dpo", dpo.Preference(), tokens)
            return made(
                model,
                joined(lambda rows: family.collate(processor, rows, "right"))(given),
                [1.0] * len(which),
            )
        finally:
            tokens.close()

    every = list(range(len(items)))
    alone = torch.stack([loss([at]) for at in every]).sum()
    torch.testing.assert_close(loss(every), alone, rtol=1e-5, atol=1e-5)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(settings: dict[str, Any], tmp_path: Path) -> None:
    more = {"max_steps": 24, "save_every": 3, "evaluate.every": 5, "adapter.dropout": 0.1, "adapter.r": 4}
    flat = {key: value for key, value in settings.items() if key not in ("adapter", "optimiser")}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [f"{key}={value}" for key, value in {**flat, **more, "output": killed}.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(losses(killed)) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # SIGKILL: no handler runs
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert 8 <= len(losses(killed)) < 24
    nested = {
        "max_steps": 24, "save_every": 3, "evaluate": {"every": 5}, "adapter": {"dropout": 0.1, "r": 4},
        "optimiser": {},
    }  # fmt: skip
    log = Saying()
    run(settings, log, output=str(killed), **nested)
    assert log.found("going on after step")
    run(settings, output=str(whole), **nested)
    assert_same(killed, whole, within=1e-6)
    assert [row["step"] for row in read_metrics(killed) if "loss" in row] == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "strategy"), [("dpo", "ddp"), ("kto", "ddp"), ("kto", "fsdp"), ("dpo", "fsdp")]
)
def test_two_processes_compute_what_one_does(
    loss: str, strategy: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    alone = run(settings, loss=loss, batch_size=4, accumulate=2).folder
    flat = {k: v for k, v in settings.items() if k not in ("adapter", "optimiser", "output", "accumulate")}
    more = {"adapter.r": 4, "optimiser.warmup": 1, "output": tmp_path / "two", "loss": loss, "accumulate": 1}
    words = [f"{k}={v}" for k, v in {**flat, **more, "speed.strategy": strategy}.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRIPTYCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "apps.cli", "run", "dpo", *words, "--nproc", "2"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for key in ("loss", "margin", "accuracy", "kl", "eval_loss", "eval_margin"):
        assert losses(tmp_path / "two", key) == pytest.approx(losses(alone, key), abs=2e-5)


def test_a_finished_run_is_known_and_other_verdicts_are_another_run(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    labelled = tmp_path / "labels.jsonl"
    rows = [row for row in load_data(settings["data"], "train") if not (row.images or row.sounds)]
    made = [
        dataclasses.replace(
            row, turns=row.turns + row.chosen, chosen=(), rejected=(), extra={"label": at > 0}
        )
        for at, row in enumerate(rows)
    ]
    write_jsonl(labelled, made)
    given = {
        "data": str(labelled),
        "eval_data": None,
        "loss": "kto",
        "votes": {"hold_out": 0},
        "max_steps": 2,
    }
    run(settings, **given)
    log = Saying()
    run(settings, log, **given)
    assert "is finished" in log.said[0]
    write_jsonl(labelled, [dataclasses.replace(made[0], extra={"label": True}), *made[1:]])
    with pytest.raises(ConfigError, match="the contents of verdicts changed"):
        run(settings, **given)


def test_rows_with_right_answers_alone_get_wrong_ones_from_other_rows(
    settings: dict[str, Any], plain_data: Path, tmp_path: Path
) -> None:
    rows = [row for row in load_data(plain_data, "train") if row.answer]
    asked = (Turn(role="user", parts=(Text(text="which?"),)),)
    rows = [dataclasses.replace(row, turns=asked + row.turns[-1:]) for row in rows]
    made = wrong_answers(rows, seed=0)
    assert all(one.chosen[0].text == row.answer for one, row in zip(made, rows, strict=True))
    known = {row.answer for row in rows}
    assert all(one.rejected[0].text in known - {one.chosen[0].text} for one in made)
    assert wrong_answers(rows, seed=0) == made
    with pytest.raises(DataError, match="no other row answers the same question in another way"):
        wrong_answers(rows[:1], seed=0)


def test_what_is_held_out_shares_no_medium_and_no_question_with_the_rest(preferred: Path) -> None:
    rows = load_data(preferred, "train") * 3
    kept, out = hold_out(rows, 0.3, seed=1)
    assert out
    assert len(kept) + len(out) == len(rows)

    def media(some: list[Sample]) -> set[str]:
        paths = [part.path for row in some for part in (*row.images, *row.sounds)]
        return {str(hash(path.read_bytes())) for path in paths}

    assert not media(kept) & media(out)
    assert hold_out(rows, 0.3, seed=1) == (kept, out)
    assert hold_out(rows, 0.0, seed=1) == (rows, [])


def test_pairs_become_verdicts_and_each_question_gets_an_answer_of_another() -> None:
    asked = (Turn(role="user", parts=(Text(text="which?"),)),)
    pair = Sample(turns=asked, chosen=said("a"), rejected=said("b"), extra={"rater": "x"})
    label = Sample(turns=(*asked, *said("a")), extra={"label": True, "rater": "x"})
    bad = Sample(turns=(*asked, *said("c")), extra={"label": False, "rater": "x"})
    made = verdicts([pair, label, bad])
    assert [(item.answers[0][0].text, item.good) for item in made] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    assert [way.answer for way in mismatched(made)] == ["b", "c", "a"]
    same = verdicts([dataclasses.replace(bad, extra={"label": False, "rater": str(at)}) for at in range(3)])
    assert [way.answer for way in mismatched(same)] == ["c", "c", "c"]
    rows, places = rows_of(made, mismatched(made))
    assert [way.answer for way in rows] == ["a", "b", "c"]  # each is encoded once
    assert places == [[0, 1], [1, 2], [2, 0]]


def test_mistakes_get_a_sentence_before_anything_is_written(settings: dict[str, Any], tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    asked = (Turn(role="user", parts=(Text(text="which?"),)),)
    write_jsonl(answers, [Sample(turns=(*asked, *said("a")))])
    with pytest.raises(
        DataError, match=r"answers\.jsonl:1: 'chosen' and 'rejected' are missing; wrong_answers"
    ):
        run(settings, data=str(answers))
    with pytest.raises(DataError, match=r"answers\.jsonl:1: give 'chosen' and 'rejected', or an answer and"):
        run(settings, data=str(answers), loss="kto")
    write_jsonl(answers, [Sample(turns=asked, chosen=said("a "), rejected=said("a"))])
    with pytest.raises(DataError, match="are the same"):
        run(settings, data=str(answers))
    with pytest.raises(ConfigError) as error:
        run(settings, preference={"beta": 0.0, "smoothing": 0.5}, votes={"hold_out": 1.0}, lr=0.0)
    for words in (
        "preference.beta must be",
        "preference.smoothing must",
        "votes.hold_out must",
        "lr must be",
    ):
        assert words in str(error.value)
    assert not Path(settings["output"]).exists()


def test_pairs_with_an_answer_that_is_too_long_are_left_out_and_counted(
    settings: dict[str, Any], preferred: Path, tmp_path: Path
) -> None:
    log = Saying()
    rows = [row for row in load_data(preferred, "train") if not (row.images or row.sounds)]
    file = tmp_path / "rows.jsonl"
    rows[0] = dataclasses.replace(rows[0], rejected=said("no " * 200))
    write_jsonl(file, rows)
    run(
        settings, log, data=str(file), eval_data=None, votes={"hold_out": 0}, max_steps=1,
        length={"max_tokens": 90, "policy": "drop"},
    )  # fmt: skip
    assert log.found("length: 1 preferences left out")


def test_an_estimate_writes_nothing_and_asks_no_reference(settings: dict[str, Any]) -> None:
    log = Saying()
    found = dpo.estimate(from_dict(dpo.Config, settings), log)
    assert found.steps == 4
    assert found.seconds_a_step > 0
    assert not [line for line in log.said if line.startswith("reference")]
    assert not Path(settings["output"]).exists()


def test_an_encoder_with_a_decoder_learns_preferences(
    tiny: Callable[[str], Path], data: Any, settings: dict[str, Any]
) -> None:
    folder = data("whisper", 6, 2)
    rows = [
        dataclasses.replace(row, turns=row.prompt, chosen=said("yes"), rejected=said("no not at all"))
        for row in load_data(folder, "train")
    ]
    write_jsonl(folder / "votes.jsonl", rows)
    done = run(
        settings, model=str(tiny("whisper")), data=str(folder / "votes.jsonl"), eval_data=None, max_steps=6,
        lr=2e-2, votes={"hold_out": 0.2},
    )  # fmt: skip
    rewards = losses(done.folder, "margin")
    assert rewards[-1] > rewards[0]

"""The recipe dpo on real tiny models: learning, its reference, what counts, and mistakes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from recipes import dpo
from studio import families
from studio.adapters import load_adapter
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.errors import ConfigError, DataError
from studio.runs import read_run
from studio.training.loss import TokenLoss
from studio.training.preference_data import joined
from studio.training.preference_loss import PreferenceLoss
from studio.training.preference_rows import pairs
from studio.training.tracking import read_metrics
from studio.types import Sample, Text, Turn
from tests.recipes.preferred import Saying, losses, run, said, settings_of, write_preferences


@pytest.fixture
def settings(tiny: Callable[[str], Path], plain_data: Path, tmp_path: Path) -> dict[str, Any]:
    return settings_of(tiny("qwen_omni"), write_preferences(plain_data), tmp_path / "run")


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
    assert first["eval_accuracy"] == 0.5
    assert first["eval_kl"] == pytest.approx(0, abs=1e-9)
    (step,) = [row for row in read_metrics(folder) if "loss" in row]
    assert step["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_the_reference_is_the_model_with_its_adapter_off_or_the_adapter_of_the_start(
    settings: dict[str, Any], plain_data: Path, tmp_path: Path
) -> None:
    """The margin that a run notes is that of both models, asked one by one without any of the run's parts."""
    first = run(settings, max_steps=4).folder
    settings = {key: value for key, value in settings.items() if key != "adapter"}
    again = {"adapter": {"start": str(first)}, "output": str(tmp_path / "again"), "max_steps": 3}
    second = run(settings, **again).folder
    base = Path(settings["model"])
    family = families.detect(base)
    rows = load_data(write_preferences(plain_data), "test")

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


def test_padding_changes_nothing_and_only_the_answer_counts(
    tiny: Callable[[str], Path], plain_data: Path
) -> None:
    """A pair has the same loss alone and beside longer ones; what was said before is not learned from."""
    base = tiny("qwen_omni")
    family = families.detect(base)
    model, processor = family.load(base)
    samples = load_data(write_preferences(plain_data), "train")
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


def test_a_heavy_pair_pulls_harder_when_it_is_a_step_by_itself(settings: dict[str, Any]) -> None:
    first = {"max_steps": 1, "batch_size": 1, "optimiser": {"warmup": 1, "clip": 1e9}}
    even = run(settings, output=settings["output"] + "-even", **first).folder
    file = Path(settings["data"], "train.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    weights = {at: (at % 4) + 0.5 for at in range(len(rows))}
    lines = [json.dumps({**row, "weight": weights[at]}) + "\n" for at, row in enumerate(rows)]
    file.write_text("".join(lines), encoding="utf-8")
    other = run(settings, output=settings["output"] + "-uneven", **first).folder
    was, now = (next(row for row in read_metrics(folder) if "grad_norm" in row) for folder in (even, other))
    mean = sum(weights.values()) / len(weights)
    ratio = now["grad_norm"] / was["grad_norm"] * mean
    # Some rows make no pair, so the mean over pairs is a little another one.
    assert any(ratio == pytest.approx(weight, rel=0.1) for weight in (0.5, 1.5, 2.5, 3.5)), ratio
    assert now["loss"] == pytest.approx(was["loss"], abs=1e-6)


def test_pairs_with_an_answer_that_is_too_long_are_left_out_and_counted(
    settings: dict[str, Any], plain_data: Path, tmp_path: Path
) -> None:
    log = Saying()
    rows = [
        row for row in load_data(write_preferences(plain_data), "train") if not (row.images or row.sounds)
    ]
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

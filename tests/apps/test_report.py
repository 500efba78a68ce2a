"""`triptych report` on what a folder holds; lineage from folders as they are; summaries in model cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from apps.cli import main
from apps.lineage import origins, place
from mergers import MergeSpec, merge
from studio.adapters import Factors, write_adapter
from studio.eval_report.evaluation import read_evaluation
from studio.runs import new_record, write_run
from tests.studio.evaluations import answers, write_evaluation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an evaluation of a base, two experts that runs made, and a merge of them."""
    experts = []
    for seed, name in enumerate(("loom", "voice")):
        draw = torch.Generator().manual_seed(seed)
        factors = Factors(
            a=torch.randn(2, 6, generator=draw), b=torch.randn(8, 2, generator=draw), shape=(8, 6)
        )
        experts.append(
            write_adapter(tmp_path / name / "adapter", {"layers.0.q": factors}, base="public/base")
        )
        config = {"model": "public/base", "method": "lora", "lr": 0.001, "seed": 7, "data": f"rows/{name}"}
        data = {
            "data": {
                "rows": 12,
                "pictures": 12,
                "sounds": 0,
                "sources": {},
                "licenses": {},
                "sha256": "e" * 64,
            }
        }
        write_run(tmp_path / name, new_record("sft", config, {"data": "e" * 64}, data=data))
    spec = MergeSpec.from_mapping({"method": "ties", "models": [str(path) for path in experts], "seed": 3})
    merge(spec, tmp_path / "mixed")
    right = {
        "cloth": {"base": 1, "loom": 18, "voice": 2, "mix": 12},
        "speech": {"base": 0, "loom": 1, "voice": 15, "mix": 14},
    }
    said = {d: {name: answers(hits, 20) for name, hits in each.items()} for d, each in right.items()}
    places = {"base": None, "loom": experts[0], "voice": experts[1], "mix": tmp_path / "mixed"}
    models = {n: {"base": "public/base", "folder": at and str(at)} for n, at in places.items()}
    return write_evaluation(tmp_path / "eval", said, ["exact_match", "wer"], more={"models": models})


def test_the_command_finds_experts_and_merges_and_says_what_was_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "at home in cloth: loom (the best single expert on these questions)" in told
    assert "mix: Keeps 80 % [" in told  # 12 / 18 and 14 / 15
    assert "mix: Against base (exact_match): better in cloth, speech" in told
    figures = json.loads((folder / "report.json").read_text())
    assert {name: one["kind"] for name, one in figures["variants"].items()} == {
        "base": "base",
        "loom": "expert",
        "voice": "expert",
        "mix": "merge",
    }
    training = figures["variants"]["loom"]["training"]
    assert (training["recipe"], training["seed"], training["settings"]["lr"]) == ("sft", 7, 0.001)
    assert training["data"]["data"]["sha256"] == "e" * 64
    mix = figures["variants"]["mix"]
    assert (mix["recipe"]["method"], mix["recipe"]["seed"]) == ("ties", 3)
    lock = json.loads((folder.parent / "mixed" / "merge.lock.json").read_text())
    assert mix["weights"] == lock["output"]["fingerprint"]
    assert list(mix["inputs"].values()) == [item["fingerprint"] for item in lock["inputs"]]
    page = (folder / "report.html").read_text()
    for hash in (mix["weights"], *mix["inputs"].values(), training["fingerprint"], "e" * 64):
        assert hash in page
    assert str(folder.parent) not in page + json.dumps(figures)


def test_the_inputs_of_a_merge_are_told_though_they_were_not_evaluated(folder: Path) -> None:
    file = folder / "evaluation.json"
    told = json.loads(file.read_text())
    models = {name: one for name, one in told["models"].items() if name != "voice"}
    file.write_text(json.dumps({**told, "models": models}))
    found = {origin.name: origin for origin in origins(read_evaluation(folder))}
    assert found["voice"].kind == "unknown"
    other = found[place(folder.parent / "voice" / "adapter")]
    assert (other.variant, other.kind, other.facts["training"]["seed"]) == (False, "expert", 7)


def test_folders_that_are_gone_damaged_or_not_allowed_are_told_and_nothing_is_guessed(folder: Path) -> None:
    (folder.parent / "mixed" / "merge.lock.json").write_text("{")
    (folder.parent / "loom" / "run.json").write_text("[]")
    (folder.parent / "voice" / "adapter").rename(folder.parent / "elsewhere")
    found = {origin.name: origin for origin in origins(read_evaluation(folder))}
    assert {name: found[name].facts["note"] for name in ("mix", "loom", "voice")} == {
        "mix": "its folder is damaged",
        "loom": "its folder is damaged",
        "voice": "its folder is gone",
    }
    kept_out = origins(read_evaluation(folder), allowed=lambda place: False)
    assert {one.name: one.kind for one in kept_out}["mix"] == "merge"
    assert not any("training" in one.facts or "recipe" in one.facts for one in kept_out)


def test_cards_of_merges_get_a_summary_and_figures_that_the_hub_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), "--card"]) == 0
    assert "card: " in capsys.readouterr().out
    file = folder.parent / "mixed" / "README.md"
    text = file.read_text()
    assert "- Keeps 80 % \\[" in text
    assert "- Against base (exact\\_match): better in cloth, speech" in text
    data = ModelCard.load(file).data
    found = {(one.dataset_name, one.metric_type): one for one in data.eval_results}
    assert len(found) == len(data.eval_results) == 4
    one = found["cloth", "wer"]
    assert one.metric_name == "wer (lower is better)"
    assert one.dataset_revision == "d" * 64
    assert one.metric_value == pytest.approx(0.8, abs=0.5)
    assert found["speech", "exact_match"].metric_value == 0.7
    assert found["speech", "exact_match"].metric_args["n"] == 20
    # There and back through the hub's own reader and writer nothing is lost.
    again = eval_results_to_model_index(data.model_name, data.eval_results)
    name, results = model_index_to_eval_results(again)
    assert (name, len(results)) == ("mixed", 4)
    written = ModelCardData(model_name=name, eval_results=results).to_dict()["model-index"]
    assert written == again == ModelCard.load(file).data.to_dict()["model-index"]


def test_what_cannot_be_reported_is_told_in_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    lines = {
        (str(tmp_path / "empty"),): "empty holds no run and no evaluation (run.json, evaluation.json)\n",
        (str(tmp_path),): f"there is {tmp_path / 'eval'}",
        (str(tmp_path / "loom"), "--kind", "evaluation"): "loom holds no evaluation",
        (str(tmp_path / "loom"), "--card"): "--card is for evaluations",
        (str(folder), "--answers", "3"): "--answers is for runs",
        (str(folder), "--examples", "-1"): "--examples must be at least 0",
        (str(folder), "--experts", "cloth=lom"): "did you mean 'loom'",
        (str(folder), "--baseline", "bas"): "did you mean 'base'",
    }
    for line, sentence in lines.items():
        assert main(["report", *line]) == 2, line
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
    assert not (folder / "report.html").exists()
    (folder / "run.json").write_text("{}")
    assert main(["report", str(folder)]) == 2
    assert "holds a run and an evaluation; say which one with --kind" in capsys.readouterr().err
    assert main(["report", str(folder), "--kind", "evaluation", "--experts", "loom"]) == 0
    (folder / "evaluation.json").write_text("{}")
    assert main(["report", str(folder), "--kind", "evaluation"]) == 2
    assert "does not hold the results of an evaluation" in capsys.readouterr().err


def test_cards_need_merges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = write_evaluation(tmp_path / "eval", {"cloth": {"mix": answers(3, 8)}})
    assert main(["report", str(alone), "--card"]) == 2
    assert "none of the variants is known as one" in capsys.readouterr().err


def test_what_an_evaluation_writes_is_read(
    tiny: Callable[[str], Path], tmp_path: Path, web_data: Any
) -> None:
    from apps.evaluate import evaluate
    from studio.data import load_data
    from studio.log import QuietLog
    from studio.variants import Engine

    engine = Engine(tiny("qwen_omni"), {"base": None})
    data = {"helpdesk": load_data(Path(web_data["helpdesk"]))}
    evaluate(engine, data, ["exact_match", "token_f1"], QuietLog(), max_new_tokens=3, out=tmp_path / "eval")
    assert main(["report", str(tmp_path / "eval"), "--examples", "2"]) == 0
    figures = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert figures["variants"]["base"]["kind"] == "base"
    assert (figures["baseline"], figures["partial"]) == ("base", False)
    page = (tmp_path / "eval" / "report.html").read_text()
    assert page.count("<img ") == page.count("<audio ") == 2
    assert str(tmp_path) not in page

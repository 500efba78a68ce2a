"""The demo on a handful of rows: it trains, merges, measures, reports, and reuses what is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apps import demo
from studio.assets import asset
from studio.data import load_data
from studio.log import PlainLog


def few_rows(domain: str, folder: Path, train: int, test: int) -> None:
    """Copy the first rows of a shipped domain with their media."""
    for split, count in (("train", train), ("test", test)):
        samples = load_data(asset(f"data/{domain}"), split=split)[:count]
        (folder / split).mkdir(parents=True)
        for sample in samples:
            for medium in (*sample.images, *sample.sounds):
                shutil.copy(medium.path, folder / split / medium.path.name)
        lines = (asset(f"data/{domain}") / f"{split}.jsonl").read_text().splitlines()[:count]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    assert len(load_data(folder, split="train")) == train


def test_the_whole_way_on_a_few_rows_and_a_second_run_reuses_it(tmp_path, monkeypatch, capsys) -> None:
    domains = ("handwriting", "commands")
    monkeypatch.chdir(tmp_path)
    for domain in domains:
        few_rows(
            domain, tmp_path / domain, train=32, test=6
        )  # a folder of that name goes before the shipped one
    monkeypatch.setattr(demo, "DOMAINS", domains)
    monkeypatch.setattr(demo, "DISTIL", {**demo.DISTIL, "rows": 4, "held_out": 2, "polish": 2})
    monkeypatch.setattr(
        demo, "EXPERTS", {d: {**demo.EXPERTS[d], "max_steps": 3, "adapter": {"r": 4}} for d in domains}
    )

    report = demo.demo(tmp_path / "out", False, 0, PlainLog())
    told = capsys.readouterr()
    assert "expert-handwriting" in told.out
    assert "training handwriting commands" in told.err
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    variants = ["base", "expert-handwriting", "expert-commands", *demo.METHODS, "distil"]
    assert {domain: list(cells) for domain, cells in results.items()} == dict.fromkeys(domains, variants)
    for cells in results.values():
        for cell in (cell["metrics"]["exact_match"] for cell in cells.values()):
            assert cell["n"] == 6
            assert cell["ci"][0] <= cell["value"] <= cell["ci"][1]
    for name, folder in (("ties", "ties"), ("distil", "distil/adapter")):
        card = (tmp_path / "out" / "merges" / folder / "README.md").read_text()
        assert f"**{name}** | base |" in card
    made = json.loads((tmp_path / "out" / "report.json").read_text())
    assert made["variants"]["distil"]["kind"] == "merge"
    page = report.read_text()
    assert page.count("<article ") == page.count("<img ") + page.count("<audio ") >= 6  # three of each domain
    assert "What was kept" in page
    assert str(tmp_path) not in page
    assert "http" not in page.replace("http-equiv", "")
    took = json.loads((tmp_path / "out" / "report.json").read_text())["seconds"]
    before = (tmp_path / "out" / "merges" / "ties" / "adapter_model.safetensors").stat().st_mtime_ns

    demo.demo(tmp_path / "out", False, 0, PlainLog())
    told = capsys.readouterr()
    assert told.err.count("is finished with these settings") == 3
    assert told.err.count("reused, inputs and settings are the same") == 3
    assert "reused 84 of 84 answers" in told.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["seconds"] == took
    assert before == (tmp_path / "out" / "merges" / "ties" / "adapter_model.safetensors").stat().st_mtime_ns


def test_a_merge_is_not_reused_when_an_adapter_changed(tmp_path) -> None:
    from mergers import MergeSpec

    (tmp_path / "merge.lock.json").write_text('{"recipe": {}, "inputs": [], "output": {"fingerprint": "x"}}')
    spec = MergeSpec.from_mapping({"method": "linear", "models": [{"path": str(tmp_path)}]}, where="test")
    assert not demo.current(spec, tmp_path)
    assert not demo.current(spec, tmp_path / "absent")


@pytest.mark.parametrize("tail", ["", '{"step": 3, "lo'])
def test_the_last_whole_line_of_the_metrics_counts(tmp_path, tail: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n' + tail)
    assert demo.steps_done(tmp_path) == (2, 1.5)
    assert demo.steps_done(tmp_path / "absent")[0] == 0

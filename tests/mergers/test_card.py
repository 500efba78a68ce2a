"""The card of a merge: read by the hub's own reader, and filled with what an evaluation measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from mergers import MergeSpec, merge, verify
from mergers._card import BEGIN, check_card, public_name, write_scores
from studio.adapters import Factors, write_adapter
from studio.errors import CheckpointError, MergeError

Merge = Callable[..., Path]


def _cell(value: float, n: int, higher: bool = True) -> dict[str, Any]:
    return {"value": value, "n": n, "ci": [value - 0.04, value + 0.03], "higher_is_better": higher}


def _results(value: float = 0.9) -> dict[str, Any]:
    def both(exact: float) -> dict[str, Any]:
        metrics = {"exact_match": _cell(exact, 200), "wer": _cell(1 - exact, 200, higher=False)}
        return {"metric": "exact_match", **metrics["exact_match"], "metrics": metrics}

    return {name: {"base": both(0.25), "ties|all": both(value)} for name in ("textiles", "commands")}


@pytest.fixture
def merged(tmp_path: Path) -> Merge:
    """Return what merges two adapters of ``public/base``, or two full models, into a folder."""

    def make(out: str = "merged", full: bool = False, **more: Any) -> Path:
        paths = []
        for seed in range(2):
            draw = torch.Generator().manual_seed(seed)
            folder = tmp_path / f"{'model' if full else 'expert'}-{seed}"
            if full:
                folder.mkdir(exist_ok=True)
                save_file(
                    {"layers.0.q.weight": torch.randn(8, 6, generator=draw)}, folder / "model.safetensors"
                )
                (folder / "config.json").write_text(json.dumps({"model_type": "plain"}))
            elif not folder.exists():
                modules = {
                    f"layers.{i}.q": Factors(
                        a=torch.randn(2, 6, generator=draw), b=torch.randn(8, 2, generator=draw), shape=(8, 6)
                    )
                    for i in range(2)
                }
                write_adapter(folder, modules, base="public/base")
            paths.append(str(folder))
        spec = {"method": "linear" if full else "ties", "models": paths, **more}
        merge(MergeSpec.from_mapping(spec), tmp_path / out)
        return tmp_path / out

    return make


def test_the_hub_reads_the_header_of_a_merged_adapter(merged: Merge, tmp_path: Path) -> None:
    folder = merged(rules=[{"match": "llm.layers.1", "method": "linear"}])
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model == ["public/base", str(tmp_path / "expert-0"), str(tmp_path / "expert-1")]
    assert (data["base_model_relation"], data.library_name, data["merge_method"]) == ("merge", "peft", "ties")
    assert data.tags == ["merge", "triptych", "ties", "linear"]
    assert data.eval_results is None


def test_the_hub_reads_the_header_of_a_merged_model(merged: Merge, tmp_path: Path) -> None:
    data = ModelCard.load(merged(full=True) / "README.md").data
    assert data.base_model == [str(tmp_path / "model-0"), str(tmp_path / "model-1")]
    assert (data.library_name, data["merge_method"]) == ("transformers", "linear")


def test_models_of_the_hubs_cache_go_by_their_public_ids() -> None:
    cached = "/cache/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123abc"
    assert public_name(cached) == "Qwen/Qwen2.5-0.5B"
    assert public_name("runs/models--x") == "runs/models--x"


def test_figures_stand_in_a_table_and_in_the_header(merged: Merge) -> None:
    folder = merged()
    before = (folder / "README.md").read_text()
    write_scores(folder, _results(), "ties|all", "answers are greedy")
    text = (folder / "README.md").read_text()
    lines = text.splitlines()
    assert "| data | metric | n | **ties\\|all** | base |" in lines
    told = "| textiles | exact_match (higher is better) | 200 | 0.900 [0.860, 0.930] | 0.250 [0.210, 0.280] |"
    assert told in lines
    assert "wer (lower is better)" in text
    assert "answers are greedy" in text
    assert before.partition("---\n\n")[2].strip() in text
    data = ModelCard.load(folder / "README.md").data
    assert data.tags == ["merge", "triptych", "ties"]
    assert data.model_name == "merged"
    assert data.eval_results is not None
    first = data.eval_results[0]
    assert (first.dataset_name, first.metric_type, first.metric_value) == ("textiles", "exact_match", 0.9)
    assert first.metric_args == {"n": 200, "interval": [0.86, 0.93]}
    assert len(data.eval_results) == 4
    assert verify(folder) == []


def test_later_figures_replace_earlier_ones_and_nothing_else(merged: Merge) -> None:
    folder = merged()
    write_scores(folder, _results(0.9), "ties|all", "first")
    file = folder / "README.md"
    file.write_text(file.read_text() + "\nA note by hand.\n")
    write_scores(folder, _results(0.7), "ties|all", "second")
    text = file.read_text()
    assert text.count(BEGIN) == text.count("## What the evaluation said") == 1
    assert "0.700 [" in text
    assert "0.900 [" not in text
    assert "A note by hand." in text
    again = file.read_bytes()
    write_scores(folder, _results(0.7), "ties|all", "second")
    assert file.read_bytes() == again


def test_figures_of_other_weights_are_refused(merged: Merge, tmp_path: Path) -> None:
    folder = merged()
    with pytest.raises(CheckpointError, match=r"has no merge\.lock\.json"):
        check_card(tmp_path / "expert-0")
    file = folder / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(MergeError, match="merged is not what the merge wrote"):
        write_scores(folder, _results(), "ties|all", "greedy")
    again = merged("again")
    (again / "README.md").write_text("---\n[1, 2\n---\nText\n")
    with pytest.raises(CheckpointError, match=r"the header of .*README\.md is no YAML mapping"):
        write_scores(again, _results(), "ties|all", "greedy")
    (again / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"again has no README\.md to write the figures into"):
        check_card(again)

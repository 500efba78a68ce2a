"""No architecture loses a tensor, a file or an answer: what goes in comes out, loads, and says the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mergers import MergeSpec, merge
from studio.checkpoint import Checkpoint
from studio.families import family
from tests.mergers.architectures import ARCHITECTURES, BUILDERS, FAMILIES, question

Experts = Callable[..., list[Path]]
Base = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]


def _spec(method: str, models: list[Path], base: Path) -> MergeSpec:
    return MergeSpec.from_flags(method=method, models=map(str, models), base=base)


def _model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return a model by the class that its configuration names, and what loading it told."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, told = getattr(transformers, kind).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    return model.eval(), told


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensors_in_are_tensors_out(name: str, base_of: Base, experts_of: Experts, tmp_path: Path) -> None:
    base, experts = Checkpoint(base_of(name)), experts_of(name)
    report = merge(_spec("ties", experts, base.folder), tmp_path / "out")
    found = Checkpoint(tmp_path / "out")
    assert found.names() == base.names()
    for tensor in base.names():
        assert (found.shape(tensor), found.entry(tensor).kind) == (
            base.shape(tensor),
            base.entry(tensor).kind,
        )
        one, two = base.read(tensor).float(), found.read(tensor).float()
        if torch.isfinite(one).all():
            assert torch.isfinite(two).all(), tensor
            assert tensor not in report.dropped
            counted = not base.dtype(tensor).is_floating_point  # numbers are the base's: tested below
            assert torch.equal(one, two) == counted, f"{tensor} was not merged"
        else:
            assert torch.equal(one, two), tensor
    assert report.merged + report.copied == len(base)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_merge_of_one_loads_whole_and_gives_the_model_s_logits(
    name: str, base_of: Base, experts_of: Experts, tmp_path: Path, questions: Questions
) -> None:
    base, (expert,) = base_of(name), experts_of(name, 1)
    out = tmp_path / "out"
    merge(_spec("linear", [expert], base), out)
    model, told = _model(out)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    theirs = transformers.AutoProcessor.from_pretrained(base)
    ours = transformers.AutoProcessor.from_pretrained(out)
    assert type(ours) is type(theirs)
    if name in FAMILIES:
        found = family(name)
        # One row with its media: plain models of some families take no others beside it.
        items = [found.encode(ours, questions(name, 2)[1], False)]
        asked: dict[str, Any] = found.collate(ours, items, "left")
        asked.pop("labels", None)
    else:
        asked = question(name, ours)
        expected = question(name, theirs)
        assert all(torch.equal(asked[key], expected[key]) for key in expected)
    with torch.inference_mode():
        merged, truth, before = (m(**asked).logits for m in (model, _model(expert)[0], _model(base)[0]))
    assert torch.equal(merged, truth)
    assert torch.isfinite(truth).all()
    assert (truth - before).abs().max() > 1e-4  # the model is not the base


@pytest.mark.parametrize("name", FAMILIES)
def test_processor_and_answers_come_along(
    name: str, base_of: Base, experts_of: Experts, tmp_path: Path, questions: Questions
) -> None:
    from studio.generate import answers

    base, expert = base_of(name), experts_of(name)[0]
    merge(_spec("task_arithmetic", [expert], base), tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {p.name for p in base.iterdir()} - {"README.md"} <= names
    found = family(name)
    whole = found.load(tmp_path / "out")
    shutil.copytree(base, tmp_path / "expert")
    shutil.copy(expert / "model.safetensors", tmp_path / "expert/model.safetensors")
    truth = found.load(tmp_path / "expert")
    samples = questions(name, 2)
    assert answers(whole, found, samples, max_new_tokens=4) == answers(
        truth, found, samples, max_new_tokens=4
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_every_file_that_is_no_weight_comes_along(
    name: str, base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base = base_of(name)
    merge(_spec("linear", experts_of(name), base), tmp_path / "out")
    names = {path.name for path in base.iterdir()} - {"model.safetensors"}
    assert {"config.json", "processor_config.json", "tokenizer.json", "generation_config.json"} <= names
    for file in names:
        assert (tmp_path / "out" / file).read_bytes() == (base / file).read_bytes(), file


def test_the_two_smolvlms_differ_in_how_many_tables_they_store(base_of: Base) -> None:
    heads = {name: "lm_head.weight" in Checkpoint(base_of(name)) for name in ("smolvlm", "smolvlm_tied")}
    assert heads == {"smolvlm": True, "smolvlm_tied": False}


def test_infinite_buffers_are_copied_and_told(base_of: Base, experts_of: Experts, tmp_path: Path) -> None:
    report = merge(_spec("linear", experts_of("gemma4"), base_of("gemma4")), tmp_path / "out")
    assert report.copied == 80
    assert "80 tensors of the base hold values that are not finite" in report.warnings[0]


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_values_that_are_no_floats_are_copied_from_the_base(kind: torch.dtype, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        buffer = torch.randint(0, 2, (3, 5), generator=draw).to(kind)
        tensors = {"buffer": buffer, "weight": torch.randn(4, 4, generator=draw)}
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
    base, *models = (tmp_path / str(number) for number in range(3))
    report = merge(_spec("ties", models, base), tmp_path / "out")
    found = Checkpoint(tmp_path / "out")
    assert torch.equal(found.read("buffer"), Checkpoint(base).read("buffer"))
    assert found.dtype("buffer") == kind
    assert (report.merged, report.copied) == (1, 1)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergers._mergekit_run import mergekit_merges
from recipes._baselines import Baselines, baselines
from studio.adapters import add_lora, lora_modules, read_adapter, save_adapter
from studio.errors import CheckpointError, MergeError
from studio.families import family
from studio.overlay import overlaid
from tests.drawn_experts import drawn_experts


@pytest.fixture(scope="module")
def experts(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two experts of the tiny omni base, of one rank, on towers that are not all the same."""
    towers = {"eyes": ["llm", "projector"], "ears": ["llm"]}
    return drawn_experts(tiny("qwen_omni"), tmp_path_factory.mktemp("experts"), towers, 0.05)


@pytest.fixture(scope="module")
def found(
    tiny: Callable[[str], Path], experts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Baselines:
    return baselines(tiny("qwen_omni"), experts, tmp_path_factory.mktemp("baselines"))


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Compare by module; the sums are taken in another order."""
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


def test_every_program_and_kind_is_among_the_baselines(found: Baselines) -> None:
    assert not found.refused
    assert {each.kind for each in found.values()} == {"base", "expert", "average", "peft", "mergekit"}
    methods = {f"{each.kind} {each.how}" for each in found.values()}
    for name in ("linear", "svd", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "magnitude_prune"):
        assert f"peft {name}" in methods
    for name in (
        "linear",
        "task_arithmetic",
        "ties",
        "della",
        "breadcrumbs",
        "sce",
        "model_stock",
        "karcher",
    ):
        assert f"mergekit {name}" in methods
    assert "mergekit slerp" in methods  # there are two experts


def test_the_average_is_what_peft_and_mergekit_call_so(found: Baselines, experts: dict[str, Path]) -> None:
    average = found["average"].deltas()
    assert close(found["peft cat weight=1/n"].deltas(), average)
    assert close(found["mergekit linear weight=1"].deltas(), average)
    assert close(found["mergekit task_arithmetic weight=1/n"].deltas(), average)
    # Factors added apart from each other are no sum of deltas.
    assert not close(found["peft linear weight=1/n"].deltas(), average)
    eyes, ears = (read_adapter(experts[name]).modules for name in ("eyes", "ears"))
    alone = next(path for path in eyes if path not in ears)
    assert torch.allclose(average[alone], eyes[alone].delta() / 2)


def test_an_expert_as_a_baseline_is_the_expert_at_home(
    tiny: Callable[[str], Path], found: Baselines, experts: dict[str, Path]
) -> None:
    loaded = family("qwen_omni").load(tiny("qwen_omni"))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    paths = lora_modules(loaded.model, family("qwen_omni"), ["projector"])["projector"]
    with overlaid(loaded.model, found["eyes"].deltas()) as model:
        for path in paths:
            gained = model.get_submodule(path).weight - before[f"{path}.weight"]
            assert torch.allclose(gained, read_adapter(experts["eyes"]).modules[path].delta(), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_baselines_are_made_once(
    tiny: Callable[[str], Path], found: Baselines, experts: dict[str, Path]
) -> None:
    some = found["average"].file
    assert some is not None
    stamps = {file: file.stat().st_mtime_ns for file in some.parent.iterdir()}
    again = baselines(tiny("qwen_omni"), experts, some.parent)
    assert {file: file.stat().st_mtime_ns for file in some.parent.iterdir()} == stamps
    assert list(again) == list(found)


def test_random_baselines_follow_the_seed_and_leave_the_generators_alone() -> None:
    base = {"a": torch.zeros(8, 8)}
    models = [{"a": torch.arange(64.0).view(8, 8) + 1}, {"a": -torch.arange(64.0).view(8, 8)}]
    jobs = {"dare": ("dare_linear", {}, {"weight": 1.0, "density": 0.5})}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    made = [dict(mergekit_merges(base, models, jobs, seed=seed))["dare"] for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    one, same, other = (each["a"] for each in made if not isinstance(each, str))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_a_program_refuses_is_kept_as_its_sentence(
    tiny: Callable[[str], Path], experts: dict[str, Path], tmp_path: Path
) -> None:
    kind, base = family("qwen_omni"), tiny("qwen_omni")
    model = add_lora(kind.load(base).model, kind, ["llm"], r=3, alpha=3)
    save_adapter(model, tmp_path / "wide", base=base, family=kind)
    found = baselines(
        base, {"eyes": experts["eyes"], "wide": tmp_path / "wide"}, tmp_path / "kept", mergekit=False
    )
    assert "peft svd weight=1" in found
    assert "PEFT's linear refuses" in found.refused["peft linear weight=1"]


def test_experts_of_another_base_are_refused(
    tiny: Callable[[str], Path], experts: dict[str, Path], tmp_path: Path
) -> None:
    kind, base = family("qwen_omni"), tiny("qwen_omni")
    model = add_lora(kind.load(base).model, kind, ["llm"], r=2, alpha=2)
    save_adapter(model, tmp_path / "stray", base="elsewhere", base_fingerprint="0" * 64, family=kind)
    with pytest.raises(CheckpointError, match="was made for elsewhere"):
        baselines(base, {"stray": tmp_path / "stray"}, tmp_path / "kept")


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MergeError, match="model 1 of 1 does not have the tensors"):
        list(mergekit_merges({"a": torch.zeros(2)}, [{"b": torch.zeros(2)}], {}))

"""Under its preset each method gives what mergekit and PEFT give, within rounding, where those are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.sparsify import RescaleNorm, rescaled_masked_tensor
from peft.utils import merge_utils
from torch import Tensor

from mergers import _ops, _random
from mergers._place import Place
from mergers._settings import method

SHAPE = (37, 53)
WEIGHTS = [0.6, 0.3, 0.8]


def _models(count: int = 3, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(SHAPE, generator=draw)
    return [base + 0.1 * torch.randn(SHAPE, generator=draw) for _ in range(count)], base


def _mergekit(name: str, tensors: list[Tensor], base: Tensor | None, **parameters: Any) -> Tensor:
    inputs = [*([base] if base is not None else []), *tensors]
    group = TensorGroup.from_tensors([t.clone() for t in inputs], base_index=0 if base is not None else None)
    return registry.get(name)([group], parameters=parameters)[0]


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any], bool]] = [
    # ours, theirs, our settings beyond the preset, their parameters, whether they are given the base
    ("linear", "linear", {"weight": WEIGHTS}, {"weight": WEIGHTS}, False),
    ("linear", "linear", {"weight": WEIGHTS, "normalise": False},
     {"weight": WEIGHTS, "normalize": False}, False),
    ("task_arithmetic", "task_arithmetic", {"weight": WEIGHTS}, {"weight": WEIGHTS}, True),
    ("task_arithmetic", "task_arithmetic", {"weight": WEIGHTS, "scale": 0.4},
     {"weight": WEIGHTS, "lambda": 0.4}, True),
    ("ties", "ties", {"weight": WEIGHTS, "density": 0.2}, {"weight": WEIGHTS, "density": [0.2] * 3}, True),
    ("ties", "ties", {"weight": WEIGHTS}, {"weight": WEIGHTS}, True),
    ("ties", "ties", {"density": [0.1, 0.5, 0.9], "scale": 0.7},
     {"weight": [1.0] * 3, "density": [0.1, 0.5, 0.9], "lambda": 0.7}, True),
    ("ties", "ties", {"weight": [1.0, -0.5, 0.7], "density": 0.4},
     {"weight": [1.0, -0.5, 0.7], "density": [0.4] * 3}, True),
    ("breadcrumbs", "breadcrumbs", {"weight": WEIGHTS, "density": 0.3, "gamma": 0.05},
     {"weight": WEIGHTS, "density": [0.3] * 3, "gamma": [0.05] * 3}, True),
    ("breadcrumbs_ties", "breadcrumbs_ties", {"weight": WEIGHTS, "density": 0.9, "gamma": 0.2},
     {"weight": WEIGHTS, "density": [0.9] * 3, "gamma": [0.2] * 3}, True),
    ("model_stock", "model_stock", {}, {}, True),
    ("karcher", "karcher", {}, {}, False),
    ("multislerp", "multislerp", {"weight": WEIGHTS}, {"weight": WEIGHTS}, True),
    ("multislerp", "multislerp", {"weight": WEIGHTS}, {"weight": WEIGHTS}, False),
    ("sce", "sce", {}, {}, True),
    ("sce", "sce", {"topk": 0.3}, {"select_topk": 0.3}, True),
    ("ram", "ram", {"epsilon": 0.05}, {"epsilon": 0.05}, True),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "settings", "parameters", "with_base"), CASES)
def test_the_mergekit_preset_gives_what_mergekit_gives(
    ours: str, theirs: str, settings: dict[str, Any], parameters: dict[str, Any], with_base: bool
) -> None:
    module = method(ours)
    tensors, base = _models()
    expected = _mergekit(theirs, tensors, base if with_base else None, **parameters)
    found = module.merge(tensors, base if with_base else None, **(module.PRESETS["mergekit"] | settings))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_is_mergekits_for_the_whole_tensor(t: float) -> None:
    (first, second), _ = _models(2)
    from mergekit.merge_methods.slerp import slerp

    expected = slerp(torch.tensor([t]), first[None], second[None])[0]
    found = method("slerp").merge([first, second], None, t=t, **method("slerp").PRESETS["mergekit"])
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("with_base", [True, False])
def test_nuslerp_is_mergekits(with_base: bool) -> None:
    tensors, base = _models(2)
    ground = base if with_base else None
    expected = _mergekit("nuslerp", tensors, ground, weight=[0.3, 0.9])
    assert torch.allclose(method("nuslerp").merge(tensors, ground, weight=[0.3, 0.9]), expected, atol=1e-6)


def test_nearswap_is_mergekits() -> None:
    (first, second), _ = _models(2)
    expected = _mergekit("nearswap", [second], first, t=0.05)
    assert torch.allclose(method("nearswap").merge([first, second], None, t=0.05), expected, atol=1e-6)


def _our_masks(density: float) -> tuple[list[Tensor], Place]:
    """Return the draws that our methods make at a place, to hand them to the others."""
    place = Place(tensor="x", seed=5, keys=("a", "b", "c"))
    ones = [torch.ones(SHAPE[0] * SHAPE[1]) for _ in range(3)]
    return [_random.keep_(o, density, place.random_key(i)).view(SHAPE) for i, o in enumerate(ones)], place


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_is_mergekits_given_the_same_draws(name: str) -> None:
    tensors, base = _models()
    masks, place = _our_masks(0.5)
    sparse = [
        base + rescaled_masked_tensor(t - base, mask, RescaleNorm.l1)
        for t, mask in zip(tensors, masks, strict=True)
    ]
    expected = _mergekit(name, sparse, base, weight=WEIGHTS, density=[1.0] * 3)
    settings = method(name).PRESETS["mergekit"] | {"weight": WEIGHTS, "density": 0.5}
    found = method(name).merge(tensors, base, place=place, **settings)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_given_the_same_draws(name: str) -> None:
    tensors, base = _models()
    parts = [t - base for t in tensors]
    masks, place = _our_masks(0.5)
    sparse = torch.stack([p * mask / 0.5 for p, mask in zip(parts, masks, strict=True)])
    weighted = sparse * torch.tensor(WEIGHTS).view(3, 1, 1)
    majority = merge_utils.calculate_majority_sign_mask(sparse)
    expected = (
        weighted.sum(dim=0) if name == "dare_linear" else merge_utils.disjoint_merge(weighted, majority)
    )
    settings = method(name).PRESETS["peft"] | {"weight": WEIGHTS, "density": 0.5}
    assert torch.allclose(method(name).merge(parts, None, place=place, **settings), expected, atol=1e-6)


@pytest.mark.parametrize("sign", ["sum", "count"])
def test_ties_is_pefts(sign: str) -> None:
    tensors, base = _models()
    parts = [t - base for t in tensors]
    how = {"sum": "total", "count": "frequency"}[sign]
    expected = merge_utils.ties([p.clone() for p in parts], torch.tensor(WEIGHTS), 0.3, how)
    settings = method("ties").PRESETS["peft"] | {"weight": WEIGHTS, "density": 0.3, "sign": sign}
    assert torch.allclose(method("ties").merge(parts, None, **settings), expected, atol=1e-6)


def test_linear_and_task_arithmetic_are_pefts_sum_of_weighted_deltas() -> None:
    tensors, base = _models()
    parts = [t - base for t in tensors]
    expected = merge_utils.task_arithmetic(parts, torch.tensor(WEIGHTS))
    for name in ("linear", "task_arithmetic"):
        found = method(name).merge(parts, None, weight=WEIGHTS, **method(name).PRESETS["peft"])
        assert torch.allclose(found, expected, atol=1e-6)


def _paper_ties(parts: list[Tensor], density: float) -> Tensor:
    """TIES by its algorithm 1, written down plainly: trim over the model, elect, disjoint mean."""
    vectors = torch.stack([p.flatten() for p in parts])
    kept = torch.zeros_like(vectors)
    for row, out in zip(vectors, kept, strict=True):
        top = row.abs().topk(int(density * len(row))).indices
        out[top] = row[top]
    sign = torch.sign(kept.sum(dim=0))
    agreeing = torch.where(torch.sign(kept) == sign, kept, torch.zeros(()))
    return agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp(min=1)


def test_the_paper_preset_of_ties_is_its_algorithm() -> None:
    tensors, base = _models()
    parts = [t - base for t in tensors]
    settings = {k: v for k, v in method("ties").PRESETS["paper"].items() if k != "scope"}
    found = method("ties").merge(tensors, base, **settings)
    assert torch.allclose(found - base, _paper_ties(parts, 0.2).view(SHAPE), atol=1e-6)


def test_in_bfloat16_exactly_k_are_kept_where_others_keep_more_or_less() -> None:
    draw = torch.Generator().manual_seed(0)
    base = (torch.randn(200, 300, generator=draw) * 0.02).bfloat16()
    tuned = (base.float() + 0.0002 * torch.randn(200, 300, generator=draw)).bfloat16()
    delta = tuned.float() - base.float()
    threshold = delta.abs().flatten().topk(12_000).values[-1]
    assert (delta.abs() >= threshold).sum() > 13_000  # the ties that a plain comparison keeps
    kept = _ops.trim(delta.clone(), 0.2, Place(), 0)
    assert int(torch.count_nonzero(kept)) == 12_000
    tied = (delta.abs() == threshold).flatten().nonzero().flatten()
    kept_ties = (kept.abs() == threshold).flatten().nonzero().flatten()
    assert torch.equal(kept_ties, tied[: len(kept_ties)])


def test_della_keeps_larger_changes_more_often_and_the_sum_on_average() -> None:
    part = torch.linspace(0.01, 1, 400).repeat(500, 1)
    from mergers._della import sparse

    found = sparse([part], None, 0.5, 0.3, "density", Place(tensor="x", seed=1))[0]
    share = (found != 0).float().mean(dim=0)
    expected = torch.linspace(0.2, 0.8, 400)
    assert float((share - expected).abs().max()) < 0.1  # 500 draws: four standard deviations
    assert abs(float(found.mean() / part.mean()) - 1) < 0.01

"""Whatever ranks, targets and types come together, the engine gives what plain float64 arithmetic gives.

The dense truth is written out here without any part of the engine. A stored result may differ from it by what
its type rounds; an adapter's factors are float32, so its deltas are compared within 1e-5 of their length.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from safetensors.torch import save_file
from torch import Tensor

from mergers import MergeSpec, diagnose, merge
from studio.adapters import read_adapter
from studio.checkpoint import Checkpoint

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
#: Module -> kind and shape of its weight on disk; the towers differ, and so do the kinds of modules.
MODULES: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.layers.0.self_attn.q_proj": ("linear", (12, 10)),
    "model.layers.1.mlp.up_proj": ("linear", (17, 6)),
    "model.visual.blocks.0.attn.proj": ("linear", (9, 9)),
    "model.visual.merger.mlp": ("linear", (1, 13)),
    "model.audio_tower.conv1": ("conv", (8, 3, 2)),
    "model.visual.patch": ("conv", (6, 3, 2, 2)),
    "model.embed_tokens": ("embedding", (15, 7)),
}
SHAPES = {f"{name}.weight": shape for name, (_, shape) in MODULES.items()} | {
    "model.norm.weight": (11,),
    "model.layers.0.scale": (),
    "model.layers.1.none.weight": (0, 4),
}
WEIGHT = some.floats(-1.5, 1.5, allow_subnormal=False).map(lambda w: round(w, 3))
MANY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # making a failure smaller would take minutes of merges
    suppress_health_check=[HealthCheck.too_slow],
)


@some.composite
def adapters(draw: Any) -> dict[str, Any]:
    """Return what an adapter may be: modules with ranks of their own, a scaling, a type."""
    targets = draw(some.lists(some.sampled_from(list(MODULES)), min_size=1, unique=True))
    return {
        "ranks": {name: draw(some.integers(1, 5)) for name in targets},
        "alphas": {name: draw(some.sampled_from([1, 2.5, 8, 16])) for name in targets},
        "use_rslora": draw(some.booleans()),
        "type": draw(some.sampled_from(TYPES)),
        "seed": draw(some.integers(0, 2**31)),
    }


def _write_adapter(folder: Path, made: dict[str, Any]) -> dict[str, Tensor]:
    """Write an adapter as PEFT does, and return its true deltas in float64."""
    draw = torch.Generator().manual_seed(made["seed"])
    tensors: dict[str, Tensor] = {}
    truth = {}
    for name, rank in made["ranks"].items():
        kind, shape = MODULES[name]
        inputs, outputs = (shape[0], shape[1]) if kind == "embedding" else (shape[1], shape[0])
        window = shape[2:]
        a = torch.randn(rank, inputs, *window, generator=draw).to(made["type"])
        b = (0.3 * torch.randn(outputs, rank, *(1 for _ in window), generator=draw)).to(made["type"])
        ends = (
            ("lora_embedding_A", "lora_embedding_B")
            if kind == "embedding"
            else ("lora_A.weight", "lora_B.weight")
        )
        for end, factor in zip(ends, (a, b), strict=True):
            tensors[f"base_model.model.{name}.{end}"] = factor.contiguous()
        scaling = made["alphas"][name] / (math.sqrt(rank) if made["use_rslora"] else rank)
        delta = scaling * (b.double().flatten(1) @ a.double().flatten(1))
        truth[name] = delta.T if kind == "embedding" else delta.reshape(shape)
    config = {
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "use_rslora": made["use_rslora"],
        "rank_pattern": made["ranks"], "alpha_pattern": made["alphas"], "target_modules": list(made["ranks"]),
    }  # fmt: skip
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return truth


def _write_model(folder: Path, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write a full model, and return what it holds in float64."""
    folder.mkdir()
    save_file(values, folder / "model.safetensors")
    return {name: value.double() for name, value in values.items()}


def _random_model(
    seed: int, types: list[torch.dtype], around: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for (name, shape), dtype in zip(SHAPES.items(), types, strict=True):
        values = torch.randn(shape, generator=draw)
        found[name] = (values if around is None else around[name].float() + 0.2 * values).to(dtype)
    return found


def _ties(deltas: list[Tensor], weights: list[float], density: float) -> Tensor:
    """Return TIES as its presets for mergekit have it, by sorting."""
    parts = []
    for delta, weight in zip(deltas, weights, strict=True):
        flat = delta.flatten()
        kept = max(1, math.floor(density * flat.numel())) if flat.numel() else 0
        order = sorted(range(flat.numel()), key=lambda i, f=flat: (-abs(float(f[i])), i))
        mask = torch.zeros_like(flat)
        mask[order[:kept]] = 1
        parts.append((flat * mask).reshape(delta.shape) * weight)
    votes = sum(parts, torch.zeros_like(parts[0]))
    majority = torch.where(votes < 0, -1.0, 1.0)
    agreeing = [(part * majority > 0).double() for part in parts]
    total = sum((p * a for p, a in zip(parts, agreeing, strict=True)), torch.zeros_like(votes))
    shares = sum((w * a for w, a in zip(weights, agreeing, strict=True)), torch.zeros_like(votes))
    return torch.where(shares.abs() < 1e-12, 0.0, total / torch.where(shares == 0, 1.0, shares))


def _merged(method: str, deltas: list[Tensor], weights: list[float], density: float) -> Tensor:
    if method == "ties":
        return _ties(deltas, weights, density)
    total = sum((w * d for w, d in zip(weights, deltas, strict=True)), torch.zeros_like(deltas[0]))
    return total / sum(weights) if method == "linear" and abs(sum(weights)) > 1e-8 else total


def _spec(method: str, folders: list[Path], weights: list[float], density: float, **more: Any) -> MergeSpec:
    models = [{"path": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)]
    extra = {"settings": {"density": density}} if method == "ties" else {}
    data = {"method": method, "models": models, "allow": ["norm", "tied"], "protect": False, **extra, **more}
    return MergeSpec.from_mapping(data)


def _close(found: Tensor, truth: Tensor, dtype: torch.dtype, size: float) -> None:
    """Check values against what storing the truth in a type gives; ``size`` is of what is added up."""
    info = torch.finfo(dtype)
    allowed = truth.abs() * info.eps + max(info.smallest_normal * info.eps, 4e-6 * size)
    worst = ((found.double() - truth).abs() - allowed).max() if truth.numel() else torch.tensor(-1.0)
    assert worst <= 0, (dtype, float(worst))


@MANY
@given(
    made=some.lists(adapters(), min_size=1, max_size=4),
    weights=some.lists(WEIGHT, min_size=4, max_size=4),
    method=some.sampled_from(["linear", "task_arithmetic"]),
    types=some.lists(some.sampled_from(TYPES), min_size=len(SHAPES), max_size=len(SHAPES)),
)
def test_adapters_of_any_rank_target_and_type_add_up_to_the_dense_truth(
    made: list[dict[str, Any]], weights: list[float], method: str, types: list[torch.dtype]
) -> None:
    weights = weights[: len(made)]
    if method == "linear" and abs(sum(weights)) < 0.1:
        weights[0] += 1  # a mean whose weights cancel is a division by nearly nothing
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = [root / str(i) for i in range(len(made))]
        deltas = [_write_adapter(f, one) for f, one in zip(folders, made, strict=True)]
        base = _write_model(root / "base", _random_model(0, types))
        truth = {
            name: _merged(method, [d.get(name, torch.zeros(shape).double()) for d in deltas], weights, 1)
            for name, (_, shape) in MODULES.items()
            if any(name in d for d in deltas)
        }
        merge(_spec(method, folders, weights, 1), root / "adapter")
        found = read_adapter(root / "adapter")
        assert set(found.names()) == set(truth)
        for name, expected in truth.items():
            error = float((found.factors(name).delta().double() - expected).norm())
            longest = max(
                abs(w) * float(d[name].norm()) for w, d in zip(weights, deltas, strict=True) if name in d
            )
            assert error <= 1e-5 * max(float(expected.norm()), 0.1 * longest), name
        merge(_spec(method, folders, weights, 1, base=str(root / "base"), output="model"), root / "model")
        model = Checkpoint(root / "model")
        for (tensor, before), dtype in zip(base.items(), types, strict=True):
            expected = before + truth.get(tensor.removesuffix(".weight"), torch.zeros(()).double())
            size = max(10.0, float(expected.abs().max()) if expected.numel() else 0.0)
            assert model.dtype(tensor) == dtype
            _close(model.read(tensor), expected, dtype, size)


@MANY
@given(
    seed=some.integers(0, 2**31),
    types=some.lists(some.sampled_from(TYPES), min_size=len(SHAPES), max_size=len(SHAPES)),
    others=some.lists(some.sampled_from([None, *TYPES]), min_size=1, max_size=4),
    weights=some.lists(WEIGHT.filter(lambda w: abs(w) > 0.01), min_size=4, max_size=4),
    method=some.sampled_from(["linear", "task_arithmetic", "ties"]),
    density=some.sampled_from([0.05, 0.2, 0.5, 1.0]),
    shard=some.sampled_from(["300B", "4GB"]),
)
def test_full_models_of_any_type_merge_to_the_dense_truth(
    seed: int,
    types: list[torch.dtype],
    others: list[torch.dtype | None],
    weights: list[float],
    method: str,
    density: float,
    shard: str,
) -> None:
    weights = weights[: len(others)]
    if method == "linear" and abs(sum(weights)) < 0.1:
        weights[0] += 1
    if method == "ties":  # of both signs, the shares that it divides by may cancel
        weights = [abs(w) for w in weights]
    steps = sum(map(abs, weights)) / abs(sum(weights)) if method == "linear" else 1 + sum(map(abs, weights))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        ground = _random_model(seed, types)
        base = _write_model(root / "base", ground)
        folders, models = [], []
        for i, other in enumerate(others):  # a model may be stored in another type than its base
            kinds = types if other is None else [other] * len(types)
            folders.append(root / str(i))
            models.append(_write_model(folders[-1], _random_model(seed + i + 1, kinds, ground)))
        more = {"base": str(root / "base"), "shard_size": shard}
        merge(_spec(method, folders, weights, density, **more), root / "out")
        found = Checkpoint(root / "out")
        assert set(found.names()) == set(base)
        for (name, before), dtype in zip(base.items(), types, strict=True):
            # The differences as float32 has them: which are the largest must not hang on the last digit.
            deltas = [(m[name].float() - before.float()).double() for m in models]
            expected = before + _merged(method, deltas, weights, density)
            size = max([1.0, *(float(t.abs().max()) for t in (*deltas, expected) if t.numel())])
            assert found.dtype(name) == dtype
            _close(found.read(name), expected, dtype, steps * size)


@settings(MANY, max_examples=15)
@given(made=some.lists(adapters(), min_size=2, max_size=4))
def test_figures_of_any_adapters_are_those_of_the_dense_truth(made: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(i) for i in range(len(made))]
        deltas = [_write_adapter(f, one) for f, one in zip(folders, made, strict=True)]
        found = diagnose(_spec("linear", folders, [1.0] * len(made), 1))
        for module in found.modules:
            parts = [d.get(module.name, torch.zeros(1).double()) for d in deltas]
            assert module.figures.norms == pytest.approx([float(p.norm()) for p in parts], rel=1e-5)
            for i, one in enumerate(parts):
                for j, other in enumerate(parts):
                    if one.any() and other.any():
                        cosine = float((one * other).sum() / one.norm() / other.norm())
                        assert module.figures.cosine[i, j] == pytest.approx(cosine, abs=1e-5)

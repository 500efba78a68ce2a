"""What holds for every merge method that is found, whatever it does in between."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from mergers._place import NOWHERE, Look, Place
from mergers._settings import allowed, is_per_model, method, takes_arrays
from studio import plugins

METHODS = plugins.names("methods")
SHAPES = [(48, 40), (7, 5), (33,), (4, 3, 2, 2), (1,), ()]


def _count(module: ModuleType) -> int:
    return getattr(module, "MODELS", 3)


def _models(shape: tuple[int, ...], count: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draw)
    return [base + 0.1 * torch.randn(shape, generator=draw) for _ in range(count)], base


def _gentle(module: ModuleType) -> dict[str, Any]:
    """Settings under which nothing is trimmed or dropped."""
    return getattr(module, "IDENTITY", {}) | ({"density": 1.0} if "density" in allowed(module) else {})


def _place(count: int, order: tuple[int, ...] | None = None) -> Place:
    keys = [f"model {i}" for i in range(count)]
    return Place(tensor="some.weight", seed=3, keys=tuple(keys[i] for i in order or range(count)))


def _statistics(module: ModuleType, shape: tuple[int, ...], key: str) -> Tensor:
    """What a model's data might say of a tensor, drawn by the model's key so that it goes with the model."""
    draw = torch.Generator().manual_seed(hash_of(key))
    if module.STATISTICS == "fisher":
        return torch.rand(shape, generator=draw)
    inputs = torch.randn(3 * shape[-1], shape[-1], generator=draw)
    return inputs.T @ inputs


def hash_of(key: str) -> int:
    return sum(ord(letter) << (i % 24) for i, letter in enumerate(key))


def _call(
    module: ModuleType,
    tensors: list[Tensor],
    base: Tensor | None,
    place: Place,
    whole: tuple[int, ...] | None = None,
    **settings: Any,
) -> Tensor:
    extra = {"place": place} if "place" in (module.merge.__kwdefaults__ or {}) else {}
    shape = whole or tuple(tensors[0].shape)
    kind = getattr(module, "STATISTICS", None)
    if kind == "fisher" or (kind == "gram" and len(shape) == 2):
        told = [_statistics(module, shape, key) for key in place.keys]
        if kind == "fisher":
            own = slice(place.start, place.start + tensors[0].numel())
            told = [values.flatten()[own] for values in told]
        extra["place"] = replace(place, statistics=told)
    return module.merge(tensors, base, **extra, **settings)


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_cites_a_paper_and_a_section(name: str) -> None:
    text = method(name).__doc__ or ""
    assert "arXiv:" in text or "doi:" in text
    assert "section" in text
    assert 10 < len(plugins.summary("methods", name)) < 110


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_keyword_only_and_have_defaults(name: str) -> None:
    parameters = inspect.signature(method(name).merge).parameters
    assert list(parameters)[:2] == ["tensors", "base"]
    for parameter in list(parameters.values())[2:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
    for preset, values in getattr(method(name), "PRESETS", {}).items():
        assert set(values) <= set(allowed(method(name))), preset


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_models_equal_to_the_base_merge_to_the_base(name: str, shape: tuple[int, ...]) -> None:
    module = method(name)
    _, base = _models(shape, 1)
    merged = _call(module, [base.clone() for _ in range(_count(module))], base, _place(_count(module)))
    assert merged.shape == base.shape
    assert torch.allclose(merged, base, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_copies_of_one_model_merge_to_that_model(name: str, shape: tuple[int, ...]) -> None:
    module = method(name)
    if not getattr(module, "KEEPS_ONE", True):
        pytest.skip("changes a single model, too")
    (tensor,), base = _models(shape, 1)
    count = _count(module)
    settings = _gentle(module)
    if "weight" in allowed(module):
        settings["weight"] = 1 / count if is_per_model(module, "weight") else 0.5
    merged = _call(module, [tensor.clone() for _ in range(count)], base, _place(count), **settings)
    assert torch.allclose(merged, tensor, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_models_does_not_matter(name: str) -> None:
    module = method(name)
    if not getattr(module, "SYMMETRIC", True):
        pytest.skip("the models play different parts")
    count = _count(module)
    tensors, base = _models((48, 40), count)
    settings: dict[str, Any] = {}
    per_model = [key for key in allowed(module) if is_per_model(module, key)]
    values = {"weight": [0.5, 0.3, 0.2], "density": [0.3, 0.6, 0.9], "epsilon": [0.02, 0.04, 0.06]}
    for key in per_model:
        settings[key] = values.get(key, [0.1, 0.12, 0.14])[:count]
    first = _call(module, tensors, base, _place(count), **settings)
    for order in itertools.permutations(range(count)):
        turned = {k: [v[i] for i in order] if k in per_model else v for k, v in settings.items()}
        again = _call(module, [tensors[i] for i in order], base, _place(count, order), **turned)
        assert torch.allclose(again, first, atol=2e-5), order


@pytest.mark.parametrize("name", METHODS)
def test_without_a_base_the_tensors_are_deltas(name: str) -> None:
    module = method(name)
    count = _count(module)
    tensors, base = _models((48, 40), count)
    whole = _call(module, tensors, base, _place(count))
    delta = _call(module, [t - base for t in tensors], None, _place(count))
    assert torch.allclose(whole - base, delta, atol=2e-5)


@pytest.mark.parametrize("name", [n for n in METHODS if getattr(method(n), "INVARIANT", None)])
def test_turning_all_deltas_turns_the_result(name: str) -> None:
    module = method(name)
    tensors, base = _models((24, 20), _count(module))
    parts = [t - base for t in tensors]
    left = torch.linalg.qr(_models((24, 24), 1, seed=1)[1]).Q
    right = (
        torch.linalg.qr(_models((20, 20), 1, seed=2)[1]).Q if module.INVARIANT == "both" else torch.eye(20)
    )
    turned = _call(module, [left @ p @ right for p in parts], None, _place(len(parts)))
    assert torch.allclose(turned, left @ _call(module, parts, None, _place(len(parts))) @ right, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_inputs_are_left_as_they_were(name: str) -> None:
    module = method(name)
    tensors, base = _models((48, 40), _count(module))
    before = [t.clone() for t in (*tensors, base)]
    _call(module, tensors, base, _place(len(tensors)))
    _call(module, tensors, None, _place(len(tensors)))
    assert all(torch.equal(a, b) for a, b in zip(before, (*tensors, base), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    module = method(name)
    tensors, base = _models((48, 40), _count(module))
    one, two = (_call(module, tensors, base, _place(len(tensors))) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_every_float_type_gives_a_finite_result(name: str, dtype: torch.dtype) -> None:
    module = method(name)
    tensors, base = _models((48, 40), _count(module))
    merged = _call(module, [t.to(dtype) for t in tensors], base.to(dtype), _place(len(tensors)))
    assert merged.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(merged).all()


@pytest.mark.parametrize("name", [n for n in METHODS if getattr(method(n), "PIECES", "whole") != "whole"])
def test_pieces_give_the_same_as_the_whole(name: str) -> None:
    module = method(name)
    tensors, base = _models((48, 40), _count(module))
    tensors = [t.bfloat16() for t in tensors]  # many ties
    base = base.bfloat16()
    for change in ({}, {"rescale": "l1"}, {"elect": "raw", "sign": "count"}):
        settings = {k: v for k, v in change.items() if k in allowed(module)}
        whole = _call(module, tensors, base, _place(len(tensors)), **settings)
        assert torch.allclose(_in_pieces(module, tensors, base, **settings), whole, atol=1e-6), settings


def _in_pieces(module: ModuleType, tensors: list[Tensor], base: Tensor, **settings: Any) -> Tensor:
    count, numel, size = len(tensors), base.numel(), 7 * 40
    place = _place(count)
    shape = (-1, 40) if module.PIECES == "rows" else (-1,)

    def pieces() -> Any:
        for begin in range(0, numel, size):
            parts = [t.flatten()[begin : begin + size].float().view(shape) for t in tensors]
            ground = base.flatten()[begin : begin + size].float().view(shape)
            yield Place(**{**vars(place), "start": begin}), [p - ground for p in parts]

    def values() -> Any:
        for begin in range(0, numel, size):
            yield place, [t.flatten()[begin : begin + size].float() for t in tensors]

    def sample() -> list[Tensor]:
        return [(t.float() - base.float()).flatten()[::7] for t in tensors]

    survey = None
    if hasattr(module, "survey"):
        survey = module.survey(
            Look(count=count, numel=numel, pieces=pieces, values=values, sample=sample), **settings
        )
    done = []
    for begin in range(0, numel, size):
        cut = slice(begin, begin + size)
        done.append(_call(
            module, [t.flatten()[cut].view(shape) for t in tensors], base.flatten()[cut].view(shape),
            Place(**{**vars(place), "start": begin, "survey": survey}), tuple(base.shape), **settings,
        ).flatten())  # fmt: skip
    return torch.cat(done).view(base.shape)


def test_nowhere_is_a_place_without_a_survey() -> None:
    assert NOWHERE.survey is None
    assert NOWHERE.random_key(0) != NOWHERE.random_key(1)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s])
@pytest.mark.parametrize("name", [n for n in METHODS if takes_arrays(method(n))])
def test_arrays_and_tensors_come_out_alike(name: str, shape: tuple[int, ...]) -> None:
    module = method(name)
    tensors, base = _models(shape, _count(module))
    exact = not hasattr(module, "weights")  # whose sums a processor may add up in another order
    for change in ({}, {"rescale": "l1"}, {"elect": "raw", "sign": "count"}, {"normalise": "count"}):
        settings = {k: v for k, v in change.items() if k in allowed(module)}
        if name == "linear":
            settings.pop("normalise", None)
        for ground in (base, None):
            wanted = _call(module, tensors, ground, _place(len(tensors)), **settings)
            arrays = [tensor.numpy() for tensor in tensors]
            below = None if ground is None else ground.numpy()
            found = torch.from_numpy(_call(module, arrays, below, _place(len(tensors)), **settings))
            assert torch.equal(found, wanted) if exact else torch.allclose(found, wanted, atol=1e-6)

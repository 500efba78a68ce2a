"""Selection keeps exactly k with ties by index, whole or in pieces; random numbers follow places."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergers import _random, _select
from mergers._place import Look, Place
from mergers._select import cut, shrink, survey_cuts


def _truth(values: Tensor, k: int) -> Tensor:
    """Keep k by a stable sort: the plain way."""
    order = torch.sort(values.abs(), descending=True, stable=True).indices[:k]
    out = torch.zeros_like(values)
    out[order] = values[order]
    return out


def _look(models: list[Tensor], size: int) -> Look:
    def pieces() -> Iterator[tuple[Place, list[Tensor]]]:
        for begin in range(0, models[0].numel(), size):
            yield Place(start=begin), [m[begin : begin + size].clone() for m in models]

    return Look(
        count=len(models),
        numel=models[0].numel(),
        pieces=pieces,
        values=pieces,
        sample=lambda: [m[::3].clone() for m in models],
    )


def _values(kind: str, count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(count, generator=draw)
    if kind == "tied":
        return torch.randint(-3, 4, (count,), generator=draw).float()
    if kind == "sparse":
        return torch.randn(count, generator=draw) * (torch.rand(count, generator=draw) < 0.1)
    if kind == "sorted":
        return torch.linspace(-1, 1, count)
    return torch.zeros(count)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["normal", "tied", "sparse", "sorted", "zero"]),
    count=st.integers(1, 700),
    share=st.floats(0.001, 1),
    size=st.integers(7, 300),
    cap=st.sampled_from([4, 50, 1 << 22]),
    seed=st.integers(0, 99),
)
def test_whole_or_in_pieces_exactly_the_stable_sorts_choice_is_kept(
    kind: str, count: int, share: float, size: int, cap: int, seed: int
) -> None:
    models = [_values(kind, count, seed), _values("normal", count, seed + 1)]
    k = _select.keep_count(share, count)
    before, _select.CAP = _select.CAP, cap
    try:
        cuts = survey_cuts(_look(models, size), [k, k])
    finally:
        _select.CAP = before
    for values, found in zip(models, cuts, strict=True):
        truth = _truth(values, k)
        assert torch.equal(shrink(values, cut(values.abs(), k), 0), truth)
        parts = [shrink(values[b : b + size], found, b) for b in range(0, count, size)]
        assert torch.equal(torch.cat(parts), truth)


@pytest.mark.parametrize("kind", ["normal", "tied", "sparse", "sorted"])
def test_large_tensors_go_through_the_sample(kind: str) -> None:
    values = _values(kind, 200_000, 3)
    for share in (0.001, 0.2, 0.5, 0.999):
        k = _select.keep_count(share, values.numel())
        assert torch.equal(shrink(values, cut(values.abs(), k), 0), _truth(values, k))


def test_random_bits_are_the_same_in_any_pieces_and_differ_by_key() -> None:
    whole = _random.bits(1000, 42, 0)
    assert torch.equal(torch.cat([_random.bits(300, 42, 0), _random.bits(700, 42, 300)]), whole)
    assert not torch.equal(_random.bits(1000, 43, 0), whole)
    assert not torch.equal(_random.bits(1000, 42, 1 << 32), whole)
    assert _random.key(0, "a", "b") != _random.key(0, "ab", "")


def test_random_bits_are_uniform_and_independent() -> None:
    count = 1 << 18
    keys = [_random.key(0, "x", i) for i in range(3)]
    draws = [(_random.bits(count, key).double() + 2**31) / 2**32 for key in keys]
    limit = 5 / count**0.5  # five standard deviations
    for one in draws:
        assert abs(float(one.mean()) - 0.5) < limit
        assert abs(float(one.var()) * 12 - 1) < 3 * limit
        for lag in (1, 2, 64, 4096):
            pair = torch.corrcoef(torch.stack([one[:-lag], one[lag:]]))
            assert abs(float(pair[0, 1])) < limit
    assert float((torch.corrcoef(torch.stack(draws)) - torch.eye(3)).abs().max()) < limit


@pytest.mark.parametrize("density", [0.001, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_share_kept_is_the_probability(density: float, dtype: torch.dtype) -> None:
    count = 1 << 18
    kept = _random.keep_(torch.ones(count, dtype=dtype), density, _random.key(1, "y", 0))
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(kept.mean()) - density) < 5 * (density * (1 - density) / count) ** 0.5 + 1e-12

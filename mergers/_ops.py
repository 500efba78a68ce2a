"""The steps that merge methods are made of: deltas, trimming, dropping, electing signs, adding up.

All work in float32 (float64 where an input is) and on any shape. Conventions are arguments, never habits:

    elect      weighted | raw          signs are compared on weight x delta, or on the deltas
    sign       sum | count             the majority by total mass, or by number of votes
    normalise  weights | count | none  what the agreeing sum is divided by
    rescale    density | l1 | none     what dropping is made up for by
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mergers import _random
from mergers._select import Cut, cut, kept
from studio.errors import ConfigError

PerModel = float | Sequence[float]
Elect = Literal["weighted", "raw"]
Sign = Literal["sum", "count"]
Normalise = Literal["weights", "count", "none"]
Rescale = Literal["density", "l1", "none"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the values come from: what random numbers and cuts over more than one call need to know.

    tensor   name of the tensor; ``seed`` and ``keys`` (one per model) complete the key of random numbers
    start    index of the first element within the tensor
    cuts     one per model, found by looking at the whole scope before; ``offset`` is this tensor's place
    l1       per model: the factor that restores the L1 norm, found the same way
    """

    tensor: str = ""
    seed: int = 0
    keys: tuple[str, ...] = ()
    start: int = 0
    offset: int = 0
    cuts: tuple[Cut, ...] = ()
    l1: tuple[float, ...] = field(default=())

    def random_key(self, model: int) -> int:
        """Return the key of the random numbers for one model's tensor."""
        name = self.keys[model] if self.keys else model
        return _random.key(self.seed, self.tensor, name)


NOWHERE = Place()


def per_model(value: PerModel, count: int, name: str = "weight") -> list[float]:
    """Return one number per model: a single number stands for all."""
    if isinstance(value, (int, float)):
        return [float(value)] * count
    if len(value) != count:
        raise ConfigError(f"{name} has {len(value)} values for {count} models")
    return [float(item) for item in value]


def densities(value: PerModel, count: int) -> list[float]:
    """Return one density in (0, 1] per model, or raise `ConfigError`."""
    found = per_model(value, count, "density")
    for item in found:
        if not 0 < item <= 1:
            raise ConfigError(f"density must lie in (0, 1], not {item:g}")
    return found


def one_of(name: str, value: str, allowed: Any) -> None:
    """Raise `ConfigError` unless a setting has one of the values that its type allows."""
    known = allowed.__args__
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not '{value}'")


def work_type(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the type to compute in."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def deltas(tensors: Sequence[Tensor], base: Tensor | None) -> list[Tensor]:
    """Return fresh tensors ``tensor - base``; without a base the tensors are the deltas already."""
    dtype = work_type(tensors)
    if base is None:
        return [tensor.to(dtype, copy=True) for tensor in tensors]
    ground = base.to(dtype)
    return [tensor.to(dtype, copy=True).sub_(ground) for tensor in tensors]


def on_base(delta: Tensor, base: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return ``base + scale * delta``; changes ``delta``."""
    if scale != 1:
        delta.mul_(scale)
    return delta if base is None else delta.add_(base.to(delta.dtype))


def trim(delta: Tensor, density: float, place: Place, model: int) -> Tensor:
    """Keep exactly the share ``density`` of largest magnitude, ties by index; changes ``delta``."""
    if density >= 1 or not delta.numel():
        return delta
    flat = delta.view(-1)
    size = flat.abs()
    found = place.cuts[model] if place.cuts else cut(size, keep_count(density, flat.numel()))
    return flat.mul_(kept(size, found, place.offset + place.start)).view_as(delta)


def keep_count(density: float, count: int) -> int:
    """Return how many of ``count`` elements a density keeps: rounded down, at least one."""
    return min(count, max(1, int(density * count)))


def drop(delta: Tensor, density: float, place: Place, model: int) -> Tensor:
    """Keep each element with probability ``density``, at random; changes ``delta``."""
    if density >= 1:
        return delta
    flat = delta.view(-1)
    key = place.random_key(model)
    return flat.mul_(_random.keep(flat.numel(), density, key, place.start, flat.device)).view_as(delta)


def make_up(
    sparse: Tensor, density: float, rescale: Rescale, before: float, place: Place, model: int
) -> Tensor:
    """Make up for dropping, by 1 / density or until the L1 norm is ``before`` again; changes ``sparse``."""
    if rescale == "density":
        return sparse.div_(density) if density < 1 else sparse
    if rescale == "l1":
        if place.l1:
            return sparse.mul_(place.l1[model])
        after = l1(sparse)
        return sparse.mul_(before / after) if before >= 1e-7 and after >= 1e-7 else sparse
    return sparse


def l1(tensor: Tensor) -> float:
    """Return the sum of magnitudes."""
    return float(tensor.abs().sum(dtype=torch.float64))


def add_up(parts: list[Tensor], weights: Sequence[float], normalise: Normalise) -> Tensor:
    """Return the weighted sum of the parts, divided as ``normalise`` says; changes the first part."""
    total = parts[0].mul_(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    divisor = {"weights": sum(weights), "count": float(len(parts)), "none": 1.0}[normalise]
    return total if divisor == 1 or abs(divisor) < 1e-8 else total.div_(divisor)


def agree(
    parts: list[Tensor], weights: Sequence[float], *, elect: Elect, sign: Sign, normalise: Normalise
) -> Tensor:
    """Return the sum of those weighted parts that have the majority's sign; an even vote counts as plus.

    Changes the parts. Source: TIES (Yadav et al. 2023, arXiv:2306.01708), section 3, "Elect" and "Disjoint
    merge"; the conventions in which programs differ are arguments.
    """
    if elect == "weighted":
        for part, weight in zip(parts, weights, strict=True):
            if weight != 1:
                part.mul_(weight)
    votes = torch.zeros_like(parts[0])
    for part in parts:
        votes.add_(part if sign == "sum" else part.sign())
    majority = torch.where(votes >= 0, 1.0, -1.0).to(votes.dtype)
    del votes
    total, divisor = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        agrees = part * majority > 0
        if elect == "raw" and weight != 1:
            part.mul_(weight)
        total.add_(part.mul_(agrees))
        if normalise != "none":
            divisor.add_(agrees, alpha=weight if normalise == "weights" else 1)
    if normalise == "none":
        return total
    divisor[divisor == 0] = 1
    return total.div_(divisor)

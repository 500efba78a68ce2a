"""The steps that merge methods are made of: deltas, trimming, dropping, electing signs, adding up.

All work in float32 (float64 where an input is) and on any shape. Conventions are arguments, never habits:

    elect      weighted | raw          signs are compared on weight x delta, or on the deltas
    sign       sum | count             the majority by total mass, or by number of votes
    normalise  weights | count | none  what the agreeing sum is divided by
    rescale    density | l1 | none     what dropping is made up for by
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mergers import _random
from mergers._place import Look, Place
from mergers._select import cut, keep_count, shrink, survey_cuts
from studio.errors import ConfigError

PerModel = float | Sequence[float]
Elect = Literal["weighted", "raw"]
Sign = Literal["sum", "count"]
Normalise = Literal["weights", "count", "none"]
Rescale = Literal["density", "l1", "none"]


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
        return [tensor.to(dtype, copy=True, memory_format=torch.contiguous_format) for tensor in tensors]
    ground = base.to(dtype)
    return [
        tensor.to(dtype, copy=True, memory_format=torch.contiguous_format).sub_(ground) for tensor in tensors
    ]


def on_base(delta: Tensor, base: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return ``base + scale * delta``; changes ``delta``."""
    if scale != 1:
        delta.mul_(scale)
    return delta if base is None else delta.add_(base.to(delta.dtype))


def trim(delta: Tensor, density: float, place: Place, model: int) -> Tensor:
    """Keep exactly the share ``density`` of largest magnitude, ties by index; may change ``delta``.

    ``place.survey`` holds the models' cuts where the call sees only a piece of what is trimmed together.
    """
    if density >= 1 or not delta.numel():
        return delta
    flat = delta.view(-1)
    whole = place.survey is None
    found = cut(flat.abs(), keep_count(density, flat.numel())) if whole else place.survey[model]
    return shrink(flat, found, 0 if whole else place.offset + place.start).view_as(delta)


def survey_trim(look: Look, density: PerModel) -> Any:
    """Return the models' cuts over a scope that is merged in pieces."""
    shares = densities(density, look.count)
    return survey_cuts(look, [keep_count(share, look.numel) if share < 1 else look.numel for share in shares])


def crumbs(delta: Tensor, density: PerModel, gamma: PerModel, place: Place, model: int, count: int) -> Tensor:
    """Keep the share ``density`` below the ``gamma`` of largest magnitude; may change ``delta``."""
    if not delta.numel():
        return delta
    flat = delta.view(-1)
    if place.survey is None:
        low, high = _crumb_counts(density, gamma, flat.numel(), count)[model]
        size, first = flat.abs(), 0
        inner, outer = cut(size, low) if low else None, cut(size, high) if high else None
    else:
        inner, outer = (cuts[model] for cuts in place.survey)
        first = place.offset + place.start
    kept = flat if inner is None else shrink(flat, inner, first)
    return (kept if outer is None else kept - shrink(flat, outer, first)).view_as(delta)


def survey_crumbs(look: Look, density: PerModel, gamma: PerModel) -> Any:
    """Return the models' inner and outer cuts over a scope that is merged in pieces."""
    counts = _crumb_counts(density, gamma, look.numel, look.count)
    found = []
    for side in (0, 1):
        ks = [pair[side] for pair in counts]
        cuts = survey_cuts(look, [max(k, 1) for k in ks])
        found.append(tuple(c if k else None for c, k in zip(cuts, ks, strict=True)))
    return tuple(found)


def _crumb_counts(density: PerModel, gamma: PerModel, numel: int, count: int) -> list[tuple[int, int]]:
    """Return per model how many largest hold what is kept and the outliers, and how many are outliers.

    0 means: no cut. Outliers give way where the density could not be kept otherwise.
    """
    pairs = []
    for share, part in zip(densities(density, count), per_model(gamma, count, "gamma"), strict=True):
        if not 0 <= part < 1:
            raise ConfigError(f"gamma must lie in [0, 1), not {part:g}")
        wanted, top = int(share * numel), int(part * numel)
        outliers = min(top, numel - wanted)
        inner = wanted + outliers
        pairs.append((0 if inner >= numel else inner, outliers if share < 1 else 0))
    return pairs


def drop(delta: Tensor, density: float, rescale: Rescale, place: Place, model: int) -> Tensor:
    """Keep each element with probability ``density`` and make up for the rest; changes ``delta``.

    ``l1`` restores the sum of magnitudes; ``place.survey`` holds the models' factors where the call sees
    only a piece of a tensor.
    """
    if density >= 1 or not delta.numel():
        return delta
    flat = delta.view(-1)
    whole = place.survey is None
    before = magnitude_sum(flat) if rescale == "l1" and whole else 0.0
    _random.keep_(flat, density, place.random_key(model), place.start)
    if rescale == "density":
        flat.div_(density)
    elif rescale == "l1":
        flat.mul_(restored(before, magnitude_sum(flat)) if whole else place.survey[model])
    return delta


def survey_drop(look: Look, density: PerModel, rescale: Rescale) -> Any:
    """Return per model the factor that restores the sum of magnitudes after dropping, or None."""
    if rescale != "l1":
        return None
    shares = densities(density, look.count)
    before, after = [0.0] * look.count, [0.0] * look.count
    for place, parts in look.pieces():
        for i, part in enumerate(parts):
            before[i] += magnitude_sum(part)
            after[i] += magnitude_sum(drop(part, shares[i], "none", place, i))
    return [restored(b, a) for b, a in zip(before, after, strict=True)]


def magnitude_sum(tensor: Tensor) -> float:
    return float(tensor.abs().sum(dtype=torch.float64))


def restored(before: float, after: float) -> float:
    """Return what restores a norm; tiny norms are left alone."""
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0


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
    votes = parts[0].sign() if sign == "count" else parts[0].clone()
    for part in parts[1:]:
        votes.add_(part.sign() if sign == "count" else part)
    majority = torch.copysign(votes.new_ones(()), votes)
    total, divisor = votes.zero_(), torch.zeros_like(votes)
    for part, weight in zip(parts, weights, strict=True):
        part.mul_(majority).relu_()  # magnitudes of what agrees, zero elsewhere
        total.add_(part, alpha=weight if elect == "raw" else 1)
        if normalise != "none":
            divisor.add_(part.sign_(), alpha=weight if normalise == "weights" else 1)
    total.mul_(majority)
    if normalise == "none":
        return total
    if normalise == "count" or min(weights) > 0:  # a divisor that is not zero is at least as large as this
        return total.div_(divisor.clamp_(min=1.0 if normalise == "count" else min(weights)))
    return total.div_(torch.where(divisor == 0, 1.0, divisor))

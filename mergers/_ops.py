"""The steps that merge methods are made of: deltas, trimming, dropping, electing signs, adding up.

All work in float32 (float64 where an input is) and on any shape, on NumPy arrays as on torch's tensors, with
the same bits as the result: only operations that IEEE 754 defines exactly, one at a time, never fused.
Conventions are arguments, never habits:

    elect      weighted | raw          signs are compared on weight x delta, or on the deltas
    sign       sum | count             the majority by total mass, or by number of votes
    normalise  weights | count | none  what the agreeing sum is divided by
    rescale    density | l1 | none     what dropping is made up for by
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mergers import _random
from mergers._arrays import bits_of, bits_type, count_of, library
from mergers._place import Look, Place
from mergers._select import cut, keep_count, shrink, survey_cuts
from studio.errors import ConfigError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

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


def deltas(tensors: Sequence[Tensor], base: Tensor | None, fresh: bool = True) -> list[Tensor]:
    """Return ``tensor - base`` as arrays of their own; without a base the arrays are the deltas already.

    Without ``fresh`` they may be the very tensors given, for those who change none.
    """
    given: Any = tensors
    if isinstance(given[0], np.ndarray):
        wide = np.float64 if any(t.dtype == np.float64 for t in given) else np.float32
        if base is None:
            return [array.astype(wide, copy=fresh) for array in given]
        return [np.subtract(array, base, dtype=wide, casting="same_kind") for array in given]
    dtype = work_type(tensors)
    if base is None:
        return [tensor.to(dtype, copy=fresh, memory_format=torch.contiguous_format) for tensor in tensors]
    ground = base.to(dtype)
    return [
        tensor.to(dtype, copy=True, memory_format=torch.contiguous_format).sub_(ground) for tensor in tensors
    ]


def on_base(delta: Tensor, base: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return ``base + scale * delta``; changes ``delta``."""
    if scale != 1:
        delta *= float(scale)
    if base is not None:
        delta += base
    return delta


def trim(delta: Tensor, density: float, place: Place, model: int) -> Tensor:
    """Keep exactly the share ``density`` of largest magnitude, ties by index; may change ``delta``.

    ``place.survey`` holds the models' cuts where the call sees only a piece of what is trimmed together.
    """
    if density >= 1 or not count_of(delta):
        return delta
    flat = delta.reshape(-1)
    whole = place.survey is None
    found = cut(abs(flat), keep_count(density, len(flat))) if whole else place.survey[model]
    return shrink(flat, found, 0 if whole else place.offset + place.start).reshape(delta.shape)


def survey_trim(look: Look, density: PerModel) -> Any:
    """Return the models' cuts over a scope that is merged in pieces."""
    shares = densities(density, look.count)
    return survey_cuts(look, [keep_count(share, look.numel) if share < 1 else look.numel for share in shares])


def crumbs(delta: Tensor, density: PerModel, gamma: PerModel, place: Place, model: int, count: int) -> Tensor:
    """Keep the share ``density`` below the ``gamma`` of largest magnitude; may change ``delta``."""
    if not count_of(delta):
        return delta
    flat = delta.reshape(-1)
    if place.survey is None:
        low, high = _crumb_counts(density, gamma, len(flat), count)[model]
        size, first = abs(flat), 0
        inner, outer = cut(size, low) if low else None, cut(size, high) if high else None
    else:
        inner, outer = (cuts[model] for cuts in place.survey)
        first = place.offset + place.start
    kept = flat if inner is None else shrink(flat, inner, first)
    return (kept if outer is None else kept - shrink(flat, outer, first)).reshape(delta.shape)


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
    if density >= 1 or not count_of(delta):
        return delta
    flat = delta.reshape(-1)
    whole = place.survey is None
    before = magnitude_sum(flat) if rescale == "l1" and whole else 0.0
    _random.keep_(flat, density, place.random_key(model), place.start)
    if rescale == "density":
        flat /= float(density)
    elif rescale == "l1":
        flat *= float(restored(before, magnitude_sum(flat)) if whole else place.survey[model])
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


def magnitude_sum(values: Any) -> float:
    """Return the sum of magnitudes, added up in float64."""
    return float(abs(values).sum(dtype=library(values).float64))


def restored(before: float, after: float) -> float:
    """Return what restores a norm; tiny norms are left alone."""
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0


def add_up(parts: Sequence[Tensor], weights: Sequence[float], normalise: Normalise) -> Tensor:
    """Return the weighted sum of the parts, divided as ``normalise`` says, as an array of its own."""
    total = parts[0] * float(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += part if weight == 1 else part * float(weight)
    divisor = {"weights": float(sum(weights)), "count": float(len(parts)), "none": 1.0}[normalise]
    if divisor != 1 and abs(divisor) >= 1e-8:
        total /= divisor
    return total


def agree(
    parts: list[Tensor], weights: Sequence[float], *, elect: Elect, sign: Sign, normalise: Normalise
) -> Tensor:
    """Return the sum of those weighted parts that have the majority's sign; an even vote counts as plus.

    Changes the parts. Source: TIES (Yadav et al. 2023, arXiv:2306.01708), section 3, "Elect" and "Disjoint
    merge"; the conventions in which programs differ are arguments. Signs are handled as the bits that they
    are: a product or a comparison a value costs three times as much.
    """
    xp = library(parts[0])
    if elect == "weighted":
        for part, weight in zip(parts, weights, strict=True):
            if weight != 1:
                part *= float(weight)
    whole, top, width = bits_type(parts[0])
    votes = xp.sign(parts[0]) if sign == "count" else parts[0] + parts[1] if len(parts) > 1 else parts[0] + 0
    for part in parts[1 if sign == "count" else 2 :]:
        votes += xp.sign(part) if sign == "count" else part
    minus = votes.view(whole)
    minus &= top  # the majority's sign alone
    total: Tensor = xp.zeros_like(votes)
    divisor = xp.zeros_like(votes)
    for part, weight in zip(parts, weights, strict=True):
        bits = part.view(whole)
        bits ^= minus
        bits &= ~(bits >> width)  # magnitudes of what agrees, +0 elsewhere
        total += part * float(weight) if elect == "raw" and weight != 1 else part
        if normalise != "none":
            divisor += ones(part, weight if normalise == "weights" else 1.0)
    bits = total.view(whole)
    bits ^= minus
    if normalise == "none":
        return total
    if normalise == "count" or min(weights) > 0:  # a divisor that is not zero is at least as large as this
        least = 1.0 if normalise == "count" else float(min(weights))
        bits = divisor.view(whole)
        bits |= ((bits - 1) >> width) & bits_of(least, divisor)  # where it is +0
    else:
        divisor[divisor == 0] = 1.0
    total /= divisor
    return total


def ones(part: Any, weight: float) -> Any:
    """Return ``weight`` where a value that is not negative is above zero, else 0; changes ``part``."""
    xp = library(part)
    whole, _, width = bits_type(part)
    bits = part.view(whole)
    xp.negative(bits, out=bits)
    bits >>= width  # all ones where the bits were those of a number above zero
    bits &= bits_of(weight, part)
    return part

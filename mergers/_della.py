"""MagPrune, the dropping step of DELLA: the larger a change among those of its row, the likelier it stays.

DELLA-Merging (Deep et al. 2024), arXiv:2406.11617, section 3.1. Each row's magnitudes are ranked; the rank
moves the probability to keep an element linearly from ``density - epsilon`` to ``density + epsilon``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mergers import _random
from mergers._ops import PerModel, Rescale, deltas, densities, magnitude_sum, one_of, per_model, restored
from mergers._place import Look, Place
from studio.errors import ConfigError


def sparse(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    density: PerModel,
    epsilon: PerModel,
    rescale: Rescale,
    place: Place,
) -> list[Tensor]:
    """Return each model's pruned and rescaled delta."""
    one_of("rescale", rescale, Rescale)
    shares, widths = _checked(density, epsilon, len(tensors))
    found = []
    for i, part in enumerate(deltas(tensors, base)):
        before = magnitude_sum(part) if rescale == "l1" and place.survey is None else 0.0
        _prune(part, shares[i], widths[i], rescale == "density", place, i)
        if rescale == "l1":
            factor = restored(before, magnitude_sum(part)) if place.survey is None else place.survey[i]
            part.mul_(factor)
        found.append(part)
    return found


def survey_l1(look: Look, density: PerModel, epsilon: PerModel, rescale: Rescale) -> Any:
    """Return per model the factor that restores the sum of magnitudes, or None where none is needed."""
    if rescale != "l1":
        return None
    shares, widths = _checked(density, epsilon, look.count)
    before, after = [0.0] * look.count, [0.0] * look.count
    for place, parts in look.pieces():
        for i, part in enumerate(parts):
            before[i] += magnitude_sum(part)
            after[i] += magnitude_sum(_prune(part, shares[i], widths[i], False, place, i))
    return [restored(b, a) for b, a in zip(before, after, strict=True)]


def _checked(density: PerModel, epsilon: PerModel, count: int) -> tuple[list[float], list[float]]:
    shares, widths = densities(density, count), per_model(epsilon, count, "epsilon")
    for share, width in zip(shares, widths, strict=True):
        if share < 1 and not (width >= 0 and share - width > 0 and share + width < 1):
            raise ConfigError(f"density {share:g} plus and minus epsilon {width:g} must stay inside (0, 1)")
    return shares, widths


def _prune(part: Tensor, share: float, width: float, make_up: bool, place: Place, model: int) -> Tensor:
    if share >= 1 or not part.numel():
        return part
    rows = part.view(1, -1) if part.dim() < 2 else part.flatten(1)
    count = rows.shape[1]
    order = rows.abs().argsort(dim=1, stable=True)
    rank = torch.empty_like(rows)
    rank.scatter_(1, order, torch.arange(count, dtype=rows.dtype, device=rows.device).expand_as(rows))
    probability = rank.mul_(2 * width / max(count - 1, 1)).add_(share - width if count > 1 else share)
    draws = _random.bits(part.numel(), place.random_key(model), place.start, part.device)
    uniform = draws.view_as(rows).to(torch.float64).add_(2.0**31).mul_(2.0**-32)
    rows.mul_(uniform < probability)
    if make_up:
        rows.div_(probability)
    return part

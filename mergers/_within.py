"""A method applied inside another one's space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from mergers import dare_linear, dare_ties, iso_c, linear, task_arithmetic, ties, tsv_m
from mergers._ops import PerModel
from mergers._place import Place

Inner = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "iso_c", "tsv_m"]
_METHODS: dict[str, Any] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "iso_c": iso_c,
    "tsv_m": tsv_m,
}


def merge_within(
    inner: Inner, tensors: Sequence[Tensor], weight: PerModel, density: PerModel, place: Place
) -> Tensor:
    """Merge coordinates by the method called ``inner``, with those of the settings that it has."""
    method = _METHODS[inner]
    known = method.merge.__kwdefaults__
    offered = {"weight": weight, "density": density, "place": replace(place, survey=None)}
    merged: Tensor = method.merge(tensors, None, **{k: v for k, v in offered.items() if k in known})
    return merged

"""Methods of a search that are no methods of `mergers`: they ask for rows, or for the model, to merge.

A maker is a function ``make(ground, **settings) -> {module path: delta}``; of its settings ``weight`` is one
number for each expert, and others are searched where `RANGES` of the space knows them. Its name goes into
`MAKERS`, and into ``methods``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mergers._settings import allowed, method
from studio.adapters import Factors, read_adapter
from studio.types import Batch, Family, Loaded

#: The weight of a domain that has none.
LEAST = 1e-3


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a maker works with: the base in memory, the experts, and rows of each domain to learn from."""

    loaded: Loaded
    family: Family
    experts: Mapping[str, Path]
    rows: Mapping[str, Sequence[Batch]]

    @cached_property
    def factors(self) -> dict[str, dict[str, Factors]]:
        """Domain -> module path -> the expert's factors."""
        return {name: dict(read_adapter(path).modules) for name, path in self.experts.items()}


def distil(ground: Ground, *, weight: Sequence[float] = (), **settings: float) -> dict[str, Tensor]:
    """Return the merge whose layers give what the experts' layers give on rows of the domains.

    ``settings`` are those of `recipes._distil.distilled`; a domain without weight still counts a little.
    """
    from recipes._distil import distilled

    named = {name: max(own, LEAST) for name, own in zip(ground.experts, weight, strict=False)}
    return distilled(ground.loaded.model, ground.factors, ground.rows, weight=named, **settings)


def _of_distil() -> dict[str, Any]:
    from recipes._distil import distilled

    return _keywords(distilled)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes a merge in a way of its own; its settings and their defaults are asked for when needed."""

    make: Callable[..., dict[str, Tensor]]
    settings: Callable[[], dict[str, Any]]


MAKERS: Mapping[str, Maker] = {"distil": Maker(make=distil, settings=_of_distil)}


def defaults_of(name: str) -> dict[str, Any]:
    """Return the settings of a maker or of a method of `mergers`, with their defaults."""
    if name in MAKERS:
        return MAKERS[name].settings()
    return {key: parameter.default for key, parameter in allowed(method(name)).items()}


def settings_of(name: str) -> tuple[str, ...]:
    """Return the names of these settings."""
    return tuple(defaults_of(name))


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's keyword-only arguments, but for the one that it tells its progress to."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.name != "advance"}

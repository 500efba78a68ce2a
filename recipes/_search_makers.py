"""Methods of a search that are no methods of `mergers`: they ask for rows, or for the model, to merge.

A maker is a function ``make(ground, **settings) -> {module path: delta}``. Its keyword-only arguments are its
settings; of them ``weight`` is one number for each expert. Its name goes into `MAKERS`, and into ``methods``.
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


@dataclass(frozen=True)
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


def distil(
    ground: Ground,
    *,
    weight: Sequence[float] = (),
    ridge: float = 1e-3,
    repair: float = 0.0,
    answer_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Return the merge whose layers give what the experts' layers give on rows of the domains."""
    from recipes._distil import distilled

    names = list(ground.experts)
    return distilled(
        ground.loaded.model, ground.factors, ground.rows, ridge=ridge, repair=repair,
        answer_weight=answer_weight, weight={n: max(w, 1e-3) for n, w in zip(names, weight, strict=False)},
    )  # fmt: skip


#: Name -> what makes a merge in a way of its own.
MAKERS: Mapping[str, Callable[..., dict[str, Tensor]]] = {"distil": distil}


def settings_of(name: str) -> tuple[str, ...]:
    """Return the settings of a maker or of a method of `mergers`."""
    if name not in MAKERS:
        return tuple(allowed(method(name)))
    found: Any = inspect.signature(MAKERS[name]).parameters.values()
    return tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY)

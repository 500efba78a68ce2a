"""Figures of a comparison, group by group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Figures:
    """What differs in a group; all lengths are squared and summed over its tensors.

    tensors    how many, and ``changed`` how many of them differ
    apart      of the difference; ``one`` and ``two`` of each side; ``product`` their inner product
    largest    the largest absolute difference
    odd        values that are not finite and differ, which count for nothing else
    """

    tensors: int = 0
    changed: int = 0
    apart: float = 0.0
    one: float = 0.0
    two: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    odd: int = 0

    @property
    def relative(self) -> float | None:
        """The length of the difference, in lengths of the first side; None if only that is zero."""
        return math.sqrt(self.apart / self.one) if self.one else (None if self.apart else 0.0)

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the sides; None where one is zero."""
        size = math.sqrt(self.one) * math.sqrt(self.two)
        return max(-1.0, min(1.0, self.product / size)) if size else None

    def add(self, one: Tensor, two: Tensor) -> None:
        """Count a stretch of both sides."""
        fine = torch.isfinite(one) & torch.isfinite(two)
        if not fine.all():
            self.odd += int((~fine & (one != two) & ~(one.isnan() & two.isnan())).sum())
            one, two = one[fine], two[fine]
        one, two = one.double(), two.double()
        apart = one - two
        self.apart += float(torch.dot(apart, apart))
        self.one += float(torch.dot(one, one))
        self.two += float(torch.dot(two, two))
        self.product += float(torch.dot(one, two))
        self.largest = max(self.largest, float(apart.abs().max()) if apart.numel() else 0.0)

    def join(self, other: Figures) -> None:
        """Count another group's figures."""
        for name in ("tensors", "changed", "apart", "one", "two", "product", "odd"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)

    def to_mapping(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return {
            "tensors": self.tensors,
            "changed": self.changed,
            "relative": self.relative,
            "cosine": self.cosine,
            "largest": self.largest,
            "norm_difference": math.sqrt(self.apart),
            "norm_one": math.sqrt(self.one),
            "norm_two": math.sqrt(self.two),
            "not_finite": self.odd,
        }


@dataclass(frozen=True, kw_only=True)
class Diff:
    """A finished comparison.

    two       what ``one`` was compared with; the empty string for nothing
    groups    figures by group
    only_one  tensors that the other side does not have; between adapters they count as changes from zero
    skipped   tensors that are not compared: their shapes differ, or their values are codes
    """

    one: str
    two: str
    groups: Mapping[str, Figures]
    only_one: tuple[str, ...] = ()
    only_two: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def total(self) -> Figures:
        """All groups together."""
        found = Figures()
        for figures in self.groups.values():
            found.join(figures)
        return found

    def to_mapping(self) -> dict[str, Any]:
        """Return the comparison as JSON-ready values."""
        return {
            "one": self.one,
            "two": self.two or None,
            "total": self.total.to_mapping(),
            "groups": {name: figures.to_mapping() for name, figures in self.groups.items()},
            "only_one": list(self.only_one),
            "only_two": list(self.only_two),
            "skipped": list(self.skipped),
        }

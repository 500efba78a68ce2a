"""Figures of several deltas beside each other: sums that add up over modules, and what follows from them.

Deltas of many modules are one long vector, so Gram matrices, counts and masses of a group are the sums of its
modules'; only subspaces belong to a module, and a group has their mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergers._gram import cosines, lengths

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is known of n experts' deltas, and of the merged one if there is one (k = n or n + 1).

    gram       [k, k] inner products, the merged delta last
    opposite   [n, n] elements that two experts change in opposite directions
    both       [n, n] elements that both change
    mass       sum of |sum of deltas| and sum of the sums of |delta|, over all elements
    outputs    [n, n] overlap of the subspaces of outputs, summed over ``counted`` modules
    inputs     [n, n] overlap of those of inputs, summed likewise
    angles     [n, n] Grassmann distance of the output subspaces, summed likewise
    chance     [n, n] overlap that unrelated subspaces of these ranks would have, summed likewise
    energy     squared norm that the rank keeps, and squared norm of the plain sum
    """

    experts: int
    gram: Matrix
    opposite: Matrix
    both: Matrix
    mass: tuple[float, float]
    outputs: Matrix
    inputs: Matrix
    angles: Matrix
    chance: Matrix
    counted: Matrix
    energy: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def join(cls, parts: Iterable[Figures]) -> Figures:
        """Return the figures of several modules taken together."""
        found = list(parts)
        sums: dict[str, Any] = {
            key: sum(getattr(part, key) for part in found)
            for key in ("gram", "opposite", "both", "outputs", "inputs", "angles", "chance", "counted")
        }
        pairs: dict[str, Any] = {
            key: (sum(getattr(p, key)[0] for p in found), sum(getattr(p, key)[1] for p in found))
            for key in ("mass", "energy")
        }
        return cls(experts=found[0].experts, **sums, **pairs)

    @property
    def norms(self) -> list[float]:
        """The length of each expert's delta."""
        return [float(n) for n in lengths(self.gram)[: self.experts]]

    @property
    def merged(self) -> float | None:
        """The length of the merged delta, or None before a merge."""
        return float(lengths(self.gram)[-1]) if len(self.gram) > self.experts else None

    @property
    def cosine(self) -> Matrix:
        """The cosines [k, k] between deltas, NaN where one is zero."""
        found, size = cosines(self.gram), lengths(self.gram)
        found[size == 0, :] = found[:, size == 0] = np.nan
        return found

    @property
    def conflicts(self) -> Matrix:
        """The shares [n, n] of the elements both change that they change in opposite directions."""
        return _shares(self.opposite, self.both)

    @property
    def conflict(self) -> float | None:
        """The mean of `conflicts` over all pairs: 0.5 for unrelated experts."""
        return _over_pairs(self.conflicts)

    @property
    def cancelled(self) -> float | None:
        """The share of the experts' total change that a plain sum cancels: 1 - sum|sum d| / sum|d|."""
        return 1 - self.mass[0] / self.mass[1] if self.mass[1] else None

    @property
    def overlaps(self) -> tuple[Matrix, Matrix]:
        """The mean squared cosines [n, n] of the principal angles, of outputs and of inputs."""
        return _shares(self.outputs, self.counted), _shares(self.inputs, self.counted)

    @property
    def overlap(self) -> float | None:
        """The mean overlap over all pairs, of outputs and inputs alike."""
        outputs, inputs = self.overlaps
        return _over_pairs((outputs + inputs) / 2)

    @property
    def expected(self) -> float | None:
        """The overlap that unrelated deltas of the same ranks would have."""
        return _over_pairs(_shares(self.chance, self.counted))

    @property
    def kept(self) -> float | None:
        """The share of the plain sum's squared norm that the rank keeps."""
        return self.energy[0] / self.energy[1] if self.energy[1] else None

    @property
    def ratio(self) -> float | None:
        """The merged delta's length in units of the longest expert's."""
        longest = max(self.norms, default=0.0)
        return self.merged / longest if self.merged is not None and longest else None

    @property
    def shares(self) -> list[float | None]:
        """Of each expert's delta, how much the merged one carries: <merged, d> / <d, d>; 1 is all of it."""
        if self.merged is None:
            return []
        own = np.diag(self.gram)
        return [float(self.gram[-1, i] / own[i]) if own[i] else None for i in range(self.experts)]

    @property
    def explained(self) -> float | None:
        """The share of the merged delta's squared norm that is a weighted sum of the experts' deltas."""
        if not self.merged:
            return None
        n = self.experts
        weights = np.linalg.pinv(self.gram[:n, :n], hermitian=True) @ self.gram[:n, -1]
        return float(np.clip(weights @ self.gram[:n, -1] / self.gram[-1, -1], 0.0, 1.0))

    def to_mapping(self) -> dict[str, Any]:
        """Return all figures as JSON-ready values; None where one is not defined."""
        outputs, inputs = self.overlaps
        return {
            "norms": self.norms,
            "cosine": listed(self.cosine),
            "sign_conflict": self.conflict,
            "sign_conflicts": listed(self.conflicts),
            "cancelled": self.cancelled,
            "overlap": self.overlap,
            "overlap_by_chance": self.expected,
            "output_overlap": listed(outputs),
            "input_overlap": listed(inputs),
            "grassmann": listed(_shares(self.angles, self.counted)),
            "kept_energy": self.kept,
            "merged_norm": self.merged,
            "norm_ratio": self.ratio,
            "expert_shares": self.shares,
            "explained": self.explained,
        }


def listed(matrix: Matrix) -> list[list[float | None]]:
    """Return a matrix as lists, None for NaN."""
    return [[None if np.isnan(v) else float(v) for v in row] for row in matrix]


def _shares(part: Matrix, whole: Matrix) -> Matrix:
    shares: Matrix = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares


def _over_pairs(matrix: Matrix) -> float | None:
    values = matrix[np.triu_indices(len(matrix), 1)]
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None

"""Measuring one module's deltas: exactly from the factors, or in one pass over the rows.

Signs and masses need every element; of a large module some stretches of rows, spread evenly, stand for all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mergers._deltas import Deltas
from mergers._figures import Figures, Matrix
from mergers._gram import factor_gram, gram
from mergers._subspaces import Basis, factor_basis, leading_bases, overlaps, pieces
from studio.adapters import Factors

#: Elements of a stretch of rows, and how many of a module are looked at one by one.
PIECE, SAMPLE = 1 << 17, 1 << 20


def measure(found: Deltas, experts: int, rank: int | None = None) -> Figures:
    """Return the figures of one module; ``rank`` is what a merged adapter may have there.

    Without a rank the kept energy is that at the largest rank of the experts.
    """
    count, (height, width) = len(found.readers), found.shape
    spans = pieces(height, width, PIECE)
    every = max(1, height * width // SAMPLE)
    looked, seen = _Signs(experts), 0
    products = np.zeros((count, count)) if found.factors is None else factor_gram(found.factors)
    for number, (begin, end) in enumerate(spans):
        chosen = number % every == 0
        if found.factors is not None and not chosen:
            continue
        parts = found.rows(begin, end)
        if found.factors is None:
            here = [i for i, part in enumerate(parts) if part is not None]
            products[np.ix_(here, here)] += gram([part for part in parts if part is not None])
        if chosen:
            looked.add(parts[:experts])
            seen += end - begin
    scale = height / seen if seen else 0.0
    kept = (
        kept_energy([f for f in found.factors[:experts] if f is not None], rank) if found.factors else (0, 0)
    )
    return Figures(
        experts=experts,
        gram=products,
        opposite=looked.opposite * scale,
        both=looked.both * scale,
        mass=(looked.sum * scale, looked.total * scale),
        **_subspaces(found, experts),
        energy=kept,
    )


def kept_energy(factors: Sequence[Factors], rank: int | None) -> tuple[float, float]:
    """Return the squared norm that the best approximation of a rank keeps of the plain sum, and all of it."""
    if not factors:
        return 0.0, 0.0
    r = torch.linalg.qr(torch.cat([f.b for f in factors], dim=1), mode="r").R
    s = torch.linalg.qr(torch.cat([f.a for f in factors]).T, mode="r").R
    squares = torch.linalg.svdvals(r.double() @ s.T.double()).square()
    kept = rank or max(f.rank for f in factors)
    return float(squares[:kept].sum()), float(squares.sum())


class _Signs:
    """Counts of opposite signs, and the mass that a sum cancels."""

    def __init__(self, experts: int) -> None:
        self.opposite, self.both = np.zeros((experts, experts)), np.zeros((experts, experts))
        self.sum = self.total = 0.0

    def add(self, parts: Sequence[Tensor | None]) -> None:
        """Count the elements of some rows."""
        here = [i for i, part in enumerate(parts) if part is not None]
        if not here:
            return
        stacked = torch.stack([part.reshape(-1) for part in parts if part is not None])
        signs = stacked.sign()
        agreed, both = signs @ signs.T, signs.abs() @ signs.abs().T
        self.opposite[np.ix_(here, here)] += ((both - agreed) / 2).double().numpy()
        self.both[np.ix_(here, here)] += both.double().numpy()
        self.sum += float(stacked.sum(0).abs().sum())
        self.total += float(stacked.abs().sum())


def _subspaces(found: Deltas, experts: int) -> dict[str, Matrix]:
    bases: list[Basis | None]
    if found.factors is not None:
        bases = [None if f is None else factor_basis(f) for f in found.factors[:experts]]
    else:

        def rows() -> Iterable[tuple[int, list[Tensor | None]]]:
            for begin, end in pieces(*found.shape, PIECE):
                yield begin, found.rows(begin, end)[:experts]

        bases = leading_bases(found.shape, experts, rows, seed=zlib.crc32(found.name.encode()))
    square = (experts, experts)
    values, counted = np.zeros((*square, 4)), np.zeros(square)
    for i, j, figures in overlaps(bases):
        values[i, j] = values[j, i] = figures
        counted[i, j] = counted[j, i] = 1
    outputs, inputs, angles, chance = np.moveaxis(values, -1, 0)
    return {"outputs": outputs, "inputs": inputs, "angles": angles, "chance": chance, "counted": counted}

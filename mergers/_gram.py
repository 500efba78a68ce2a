"""Methods whose result is a combination of the models with weights that only angles and lengths decide.

All they need to know is the Gram matrix ``G[i, j] = <x_i, x_j>``. It is summed up piece by piece for weights
of any size, and for adapters it follows from the factors: <b_i a_i, b_j a_j> = tr(b_i^T b_j a_j a_i^T). Such
a method has a function ``weights(gram, **settings)`` beside ``merge``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mergers._ops import add_up, deltas, on_base
from mergers._place import Look, Place
from studio.adapters import Factors
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

Gram = NDArray[np.float64]
Origin = Literal["base", "zero"]
BLOCK, RUN = 1 << 17, 1 << 10


def gram(parts: Sequence[Any]) -> Gram:
    """Return the Gram matrix [n, n] of n arrays or tensors, summed in float64."""
    flat = [part.reshape(-1) for part in parts]
    total = np.zeros((len(flat), len(flat)))
    for begin in range(0, len(flat[0]), BLOCK):
        pieces = [part[begin : begin + BLOCK] for part in flat]
        if isinstance(pieces[0], np.ndarray):
            for i, one in enumerate(pieces):
                for j, other in enumerate(pieces[: i + 1]):
                    total[i, j] += inner(one, other)
        else:
            block = torch.stack(pieces).double()
            total += (block @ block.T).cpu().numpy()
    return np.tril(total) + np.tril(total, -1).T


def inner(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the inner product of two arrays: runs of 1,024 products, their sums added up in float64.

    As exact as float64 throughout but for some 1e-8, and three times as fast; and unlike a BLAS, einsum adds
    in the same order on any number of processors.
    """
    whole = len(one) - len(one) % RUN
    runs = np.einsum("nm,nm->n", one[:whole].reshape(-1, RUN), other[:whole].reshape(-1, RUN))
    rest = np.einsum("n,n->", one[whole:], other[whole:], dtype=np.float64)
    return float(runs.sum(dtype=np.float64)) + float(rest)


def factor_gram(factors: Sequence[Factors | None]) -> Gram:
    """Return the inner products of low-rank deltas: <b a, d c> = tr(b^T d c a^T)."""
    present = [(i, f) for i, f in enumerate(factors) if f is not None]
    if not present:
        return np.zeros((len(factors), len(factors)))
    b = torch.cat([f.b for _, f in present], dim=1).double()
    a = torch.cat([f.a for _, f in present]).double()
    owner = torch.zeros(len(b.T), len(factors), dtype=torch.float64)
    owner[torch.arange(len(owner)), torch.tensor([i for i, f in present for _ in range(f.rank)])] = 1
    return (owner.T @ ((b.T @ b) * (a @ a.T)) @ owner).numpy()


def survey_gram(look: Look, origin: Origin) -> Gram:
    """Return the Gram matrix of the models' deltas, or of the models themselves, over a scope."""
    pieces: Iterable[tuple[Place, list[Any]]] = look.pieces() if origin == "base" else look.values()
    total = np.zeros((look.count, look.count))
    for _, parts in pieces:
        total += gram(parts)
    return total


def merge_by(
    weights: Callable[[Gram], Sequence[float]],
    tensors: Sequence[Tensor],
    base: Tensor | None,
    place: Place,
    origin: Origin = "base",
) -> Tensor:
    """Return the combination with the weights that ``weights`` finds in the Gram matrix.

    ``origin`` says whether the vectors start at the base or at zero.
    """
    if origin == "zero":
        base = None
    parts = deltas(tensors, base, fresh=False)
    found = gram(parts) if place.survey is None else place.survey
    return on_base(add_up(parts, weights(found), "none"), base)


def lengths(found: Gram) -> NDArray[np.float64]:
    """Return the vectors' lengths [n]."""
    return np.sqrt(np.maximum(np.diag(found), 0.0))


def cosines(found: Gram) -> Gram:
    """Return the cosines of the angles [n, n]; 0 where a vector is zero."""
    size = lengths(found)
    size[size == 0] = np.inf
    return np.clip(found / np.outer(size, size), -1.0, 1.0)


def arc(cosine: float, t: float, threshold: float) -> tuple[float, float]:
    """Return the two weights of spherical interpolation; linear ones where the angle is too flat."""
    if abs(cosine) > threshold:
        return 1 - t, t
    angle = float(np.arccos(cosine))
    return float(np.sin((1 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))

"""What NumPy arrays and torch's tensors have under other names: their library, their bits, joining them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from studio.later import torch


def library(values: Any) -> Any:
    """Return the library that values belong to, numpy or torch; names are used that mean the same in both."""
    return np if isinstance(values, np.ndarray) else torch


def bits_type(values: Any) -> tuple[Any, int, int]:
    """Return the whole numbers as wide as a float, the one that is the sign's bit alone, and its place."""
    xp = library(values)
    return (xp.int32, -(1 << 31), 31) if values.dtype == xp.float32 else (xp.int64, -(1 << 63), 63)


def bits_of(value: float, values: Any) -> int:
    """Return the bits of a number of the same type as ``values``, as a whole number."""
    narrow = values.dtype == library(values).float32
    return int(np.array(value, np.float32 if narrow else np.float64).view(np.int32 if narrow else np.int64))


def count_of(values: Any) -> int:
    """Return how many elements there are."""
    return int(np.prod(values.shape))


def joined(parts: Sequence[Any]) -> Any:
    """Return arrays or tensors one after the other."""
    return library(parts[0]).concatenate(list(parts))

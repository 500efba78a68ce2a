"""Randomness that is a function of the seed and the place in the run, and of nothing else.

Every step draws from generators seeded afresh by (seed, step, rank). No generator state has to be saved:
a resumed run, or one that evaluates more often, draws exactly the numbers the uninterrupted run draws.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *place: int | str) -> int:
    """Return a seed in [0, 2**63) for a place in the run; other places give unrelated seeds."""
    text = ":".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def set_seed(seed: int, *place: int | str) -> None:
    """Seed Python, NumPy and torch (all devices) for a place in the run; takes microseconds."""
    value = derive(seed, *place)
    random.seed(value)
    np.random.seed(value % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:  # or torch notes, with the place in the code, a seed for devices that are not there
        torch.default_generator.manual_seed(value)


def generator(seed: int, *place: int | str) -> torch.Generator:
    """Return a CPU generator of its own for a place in the run."""
    return torch.Generator().manual_seed(derive(seed, *place))

"""NearSwap: take the second model where it is close to the first, move towards it where it is not.

From the model card of QuartetAnemoi-70B (alchemonaut 2024). What is left between the models is the soft
thresholding of their difference (Donoho 1995, doi:10.1109/18.382009, section 2): each step is clipped at t.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mergers._ops import deltas, on_base
from mergers._place import NOWHERE, Place
from studio.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {"mergekit": {}}
MODELS = 2
SYMMETRIC = False
NEEDS_BASE = False
PIECES = "any"


def merge(
    tensors: Sequence[Tensor], base: Tensor | None, *, t: float = 1e-4, place: Place = NOWHERE
) -> Tensor:
    """Return ``a + clip(b - a, -t, t)``: no element moves by more than ``t`` > 0."""
    del place
    if t <= 0:
        raise ConfigError(f"t must be larger than 0, not {t:g}")
    first, second = deltas(tensors, base)
    return on_base(first.add_(second.sub_(first).clamp_(-t, t)), base)

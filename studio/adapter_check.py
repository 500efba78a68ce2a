"""Is an adapter's configuration one that deltas can be computed from? Numbers and patterns, told by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import CheckpointError

#: Setting -> the setting that overrides it module by module, and what its values must be.
NUMBERS = {
    "r": ("rank_pattern", "a whole number >= 1"),
    "lora_alpha": ("alpha_pattern", "a number"),
}


def check_scaling(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse ranks, alphas and patterns that are none; `CheckpointError` names them."""
    for key, (by_module, allowed) in NUMBERS.items():
        patterns = config.get(by_module) or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError(f"{file}: {by_module} must map patterns to numbers, not {patterns!r}")
        for pattern in patterns:
            try:
                re.compile(rf"(.*\.)?({pattern})$")
            except re.error as error:
                raise CheckpointError(
                    f"{file}: {by_module} has the broken pattern '{pattern}': {error}"
                ) from None
        for where, value in [
            (key, config.get(key, 8)),
            *((f"{by_module} of '{pattern}'", value) for pattern, value in patterns.items()),
        ]:
            if not _number(value) or (key == "r" and (value < 1 or value != int(value))):
                raise CheckpointError(f"{file}: {where} must be {allowed}, not {value!r}")


def check_factors(folder: Path, name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Refuse factors of a module that are no matrices (or kernels), or whose ranks differ."""
    if len(a) < 2 or len(b) < 2 or math.prod(b[1:]) != a[0]:
        raise CheckpointError(
            f"{folder}: the factors of '{name}' do not fit: {list(a)} and {list(b)}; needed are "
            "[rank, inputs] and [outputs, rank]"
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

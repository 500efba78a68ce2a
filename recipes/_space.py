"""The space that a sweep searches: settings with the values or the range that each may take.

lr: {low: 1e-5, high: 1e-2, log: true}     a number; whole if both ends are; `step` for a grid of them
adapter.r: [4, 8, 16]                       one of these
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from optuna import Study, Trial
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from studio.errors import ConfigError, unknown

RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values: anything that stands in a configuration."""

    values: tuple[Any, ...]

    def draw(self, trial: Trial, name: str) -> Any:
        """Let the trial choose; it chooses among places, so that values may be lists or mappings."""
        return self.values[trial.suggest_categorical(name, list(range(len(self.values))))]

    def place(self, value: Any) -> int | None:
        """Return what a trial says for a value, or None where it is not to be chosen."""
        return self.values.index(value) if value in self.values else None


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones if both are; by ratios if ``log``."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def draw(self, trial: Trial, name: str) -> Any:
        """Let the trial choose."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def place(self, value: Any) -> float | None:
        """Return what a trial says for a value, or None where it lies outside or between the steps."""
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return value if inside and not self.step else None


def read_space(space: Mapping[str, Any], above: str = "") -> dict[str, Choice | Range]:
    """Return dotted setting -> what it may be, from nested or dotted mappings.

    Raises:
        ConfigError: for a list without values, or a range that is none.
    """
    found: dict[str, Choice | Range] = {}
    for key, value in space.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and {"low", "high"} & value.keys():
            found[name] = _range(name, value)
        elif isinstance(value, Mapping) and value:
            found |= read_space(value, f"{name}.")
        elif isinstance(value, list | tuple) and value:
            found[name] = Choice(values=tuple(value))
        else:
            raise ConfigError(f"space.{name} must be a list of values or low and high, not {value!r}")
    return found


class InOrder(BaseSampler):
    """Gives the n-th trial the n-th combination of the values of choices; the last setting changes first."""

    def __init__(self, space: Mapping[str, Choice | Range]) -> None:
        """List the combinations; raises `ConfigError` for a range, which has no end of values."""
        ranges = [name for name, values in space.items() if isinstance(values, Range)]
        if ranges:
            raise ConfigError(f"search=grid goes through lists of values; space.{ranges[0]} is a range")
        places = (range(len(values.values)) for values in space.values() if isinstance(values, Choice))
        self.combinations = [dict(zip(space, each, strict=True)) for each in product(*places)]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """Return nothing: each setting is looked up by itself."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Return the place of the value that a setting has in this trial."""
        return self.combinations[trial.number][param_name]


def _range(name: str, value: Mapping[str, Any]) -> Range:
    for key in value:
        if key not in RANGE:
            raise ConfigError(f"space.{name}: {unknown('key of a range', str(key), RANGE)}")
    if not {"low", "high"} <= value.keys():
        raise ConfigError(f"space.{name} needs both low and high")
    low, high = _number(name, value["low"]), _number(name, value["high"])
    step = None if value.get("step") is None else _number(name, value["step"])
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"space.{name}.log must be true or false, not {log!r}")
    if low >= high or (log and low <= 0) or (step is not None and (step <= 0 or log)):
        raise ConfigError(
            f"space.{name}: low < high is needed, low > 0 for log, and a step above 0 without log"
        )
    return Range(low=low, high=high, log=log, step=step)


def _number(name: str, value: Any) -> float:
    """Return a number; ``1e-4``, which YAML 1.1 reads as text, is one."""
    try:
        number = float(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"space.{name}: {value!r} is not a number") from None
    return number

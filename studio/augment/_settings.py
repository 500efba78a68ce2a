"""A step's settings: what its signature allows, read from what a recipe says."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from studio._convert import Wrong, convert
from studio.errors import unknown

Draw = np.random.Generator
#: The least and the greatest value that is drawn, each equally probable.
Span = tuple[float, float]


@dataclass(frozen=True)
class Between:
    """The range of a setting, ends included; of a span, that of both its ends."""

    low: float
    high: float


def hints(module: ModuleType) -> dict[str, tuple[Any, Between | None, Any]]:
    """Return name -> (type, range, default) of a step's settings; ``empty`` is no default."""
    given = inspect.signature(module.augment).parameters.values()
    named = [one for one in given if one.kind is one.KEYWORD_ONLY]
    shell = type("Settings", (), {"__annotations__": {one.name: one.annotation for one in named}})
    types = typing.get_type_hints(shell, globalns=vars(module), include_extras=True)
    found: dict[str, tuple[Any, Between | None, Any]] = {}
    for one in named:
        hint, limits = types[one.name], None
        if typing.get_origin(hint) is typing.Annotated:
            hint, limits = typing.get_args(hint)[:2]
        found[one.name] = hint, limits, one.default
    return found


def read_settings(module: ModuleType, given: Mapping[str, Any], wrong: list[str]) -> dict[str, Any]:
    """Return all settings of a step; what is wrong with those ``given`` is added to ``wrong``."""
    known = hints(module)
    values: dict[str, Any] = {}
    wrong += [unknown("setting", name, [*known, "p"]) for name in given if name not in known]
    for name, (hint, limits, default) in known.items():
        if name not in given:
            if default is inspect.Parameter.empty:
                wrong.append(f"'{name}' must be given")
            values[name] = default
            continue
        try:
            values[name] = convert(hint, given[name])
            _check_range(values[name], limits)
            _check_path(values[name])
        except Wrong as error:
            wrong.append(f"'{name}' {error}")
    return values


def _check_range(value: Any, limits: Between | None) -> None:
    if limits is None or value is None:
        return
    ends = value if isinstance(value, tuple) else (value,)
    if not all(limits.low <= end <= limits.high for end in ends):
        raise Wrong(f"must be from {limits.low:g} to {limits.high:g}, not {_spelt(value)}")
    if len(ends) == 2 and ends[0] > ends[1]:
        raise Wrong(f"must be the least value and then the greatest, not {_spelt(value)}")


def _check_path(value: Any) -> None:
    if isinstance(value, Path) and not value.exists():
        raise Wrong(f"names '{value}', which does not exist")


def _spelt(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)

"""What a visitor mixes: experts, a weight for each and for each of its towers, a method and its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from mergers import MergeSpec
from mergers._groups import TOWERS, group_of, towers_of
from mergers._settings import allowed, hint_of, is_per_model, method
from studio import plugins
from studio.adapters import read_adapter
from studio.errors import DataError

MOST = 6
"""Most experts of one mix."""
REACH = 2.0
"""Weights go from minus this to this; below zero an expert is taken away."""
_WEIGHT = "weight"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a method as a form shows it.

    kind      "share" (a number from 0 to 1), "number", "whole", "switch" or "choice"
    choices   what a choice is between
    """

    name: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A mix as the form has it.

    ``weights`` maps an expert to its weight under "" and to those of the towers that have their own.
    """

    method: str = "linear"
    experts: tuple[str, ...] = ()
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def weight(self, expert: str, tower: str = "") -> float:
        """Return an expert's weight, in a tower or in all that have none of their own."""
        own = self.weights.get(expert, {})
        return float(own.get(tower, own.get("", 1.0)))

    def spec(self, paths: Mapping[str, Path], base: Path, output: str = "adapter") -> MergeSpec:
        """Return the merge that makes this mix; ``paths`` are the experts' folders."""
        settings = dict(self.settings)
        rules: list[dict[str, Any]] = []
        if weighted(self.method):
            settings[_WEIGHT] = [self.weight(expert) for expert in self.experts]
            apart = {tower for own in self.weights.values() for tower in own if tower}
            rules = [
                {"match": tower, _WEIGHT: [self.weight(expert, tower) for expert in self.experts]}
                for tower in TOWERS
                if tower in apart
            ]
        return MergeSpec.from_mapping(
            {
                "method": self.method,
                "base": str(base),
                "models": [{"path": str(paths[expert])} for expert in self.experts],
                "settings": settings,
                "rules": rules,
                "output": output,
            },
            where="the mix",
        )


@cache
def methods() -> tuple[str, ...]:
    """Return the methods that adapters can be mixed by, without files of statistics."""
    return tuple(name for name in plugins.names("methods") if not hasattr(method(name), "STATISTICS"))


def weighted(name: str) -> bool:
    """Return whether a method takes a weight for each expert."""
    module = method(name)
    return _WEIGHT in allowed(module) and is_per_model(module, _WEIGHT)


@cache
def settings_of(name: str) -> tuple[Setting, ...]:
    """Return a method's settings, from its signature; the weights stand apart."""
    module = method(name)
    return tuple(
        _setting(key, hint_of(module, key), parameter.default)
        for key, parameter in allowed(module).items()
        if key != _WEIGHT
    )


def _setting(name: str, hint: Any, default: Any) -> Setting:
    choices = tuple(str(each) for part in (hint, *get_args(hint)) for each in _words(part))
    if choices:
        return Setting(name=name, kind="choice", default=default, choices=choices)
    if hint is bool:
        return Setting(name=name, kind="switch", default=default)
    if hint is int:
        return Setting(name=name, kind="whole", default=default)
    share = isinstance(default, float) and 0.005 <= default < 1
    return Setting(name=name, kind="share" if share else "number", default=default)


def _words(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if "Literal" in str(getattr(hint, "__origin__", "")) else ()


def first(experts: Sequence[str], name: str = "linear") -> Mix:
    """Return the mix that a page opens with: all experts up to four, in equal parts."""
    chosen = tuple(experts)[:4]
    return Mix(
        method=name,
        experts=chosen,
        weights={expert: {"": 1.0} for expert in chosen},
        settings={setting.name: setting.default for setting in settings_of(name)},
    )


def read_mix(told: Any, known: Sequence[str]) -> Mix:
    """Return the mix behind what the form sends, checked as if it were forged.

    Raises:
        DataError: what is not on the form, in one sentence.
    """
    if not isinstance(told, dict):
        raise DataError("The mix did not arrive; load the page again.")
    name, experts = told.get("method"), told.get("experts")
    if name not in methods():
        raise DataError("There is no such method; choose one of the list.")
    if not isinstance(experts, list) or not all(isinstance(each, str) for each in experts):
        raise DataError("The experts did not arrive; load the page again.")
    chosen = tuple(expert for expert in known if expert in experts)
    if len(chosen) != len(set(experts)):
        raise DataError("One of these experts is not there any more; load the page again.")
    if not 1 <= len(chosen) <= MOST:
        raise DataError(f"Choose 1 to {MOST} experts to mix; {len(chosen) or 'none'} chosen.")
    weights = told.get("weights")
    settings = told.get("settings")
    given = settings if isinstance(settings, dict) and told.get("settings_of") == name else {}
    return Mix(
        method=name,
        experts=chosen,
        weights={expert: _weights(weights, expert) for expert in chosen},
        settings={each.name: _value(each, given.get(each.name, each.default)) for each in settings_of(name)},
    )


def _weights(told: Any, expert: str) -> dict[str, float]:
    own = told.get(expert, {}) if isinstance(told, dict) else {}
    if not isinstance(own, dict):
        raise DataError("The weights did not arrive; load the page again.")
    found = {"": 1.0}
    for tower, value in own.items():
        if tower and tower not in TOWERS:
            raise DataError("A weight is for a part that the model does not have; load the page again.")
        found[tower] = _number(value, -REACH, REACH, "A weight")
    return found


def _value(setting: Setting, value: Any) -> Any:
    if setting.kind == "choice":
        if value not in setting.choices:
            raise DataError(f"{setting.name} is one of {', '.join(setting.choices)}.")
        return value
    if setting.kind == "switch":
        if not isinstance(value, bool):
            raise DataError(f"{setting.name} is on or off.")
        return value
    if setting.kind == "whole":
        return int(_number(value, 0, 10_000, setting.name))
    return _number(value, *((0.0, 1.0) if setting.kind == "share" else (-1e3, 1e3)), setting.name)


def _number(value: Any, least: float, most: float, name: str) -> float:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or not least <= value <= most:
        raise DataError(f"{name} is a number from {least:g} to {most:g}.")
    return float(value)


def towers_in(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the towers that any of the adapters changes, in the usual order."""
    found = {tower for path in paths for tower in _towers(path)}
    return tuple(tower for tower in TOWERS if tower in found)


@cache
def _towers(path: Path) -> frozenset[str]:
    adapter = read_adapter(path)
    known = towers_of({}, adapter.family)
    return frozenset(group_of(name, known).tower for name in adapter.names())

"""A method's settings: what its signature allows, what a preset says, what holds for one model alone."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from mergers._plan import Plan
from studio import plugins
from studio.errors import ConfigError, unknown
from studio.later import torch

#: Keyword arguments that the engine supplies; they are no settings.
SUPPLIED = ("place",)


@cache
def method(name: str) -> ModuleType:
    """Return the module of a merge method; `UnknownName` with the nearest match when there is none."""
    return plugins.load("methods", name)


def allowed(module: ModuleType) -> dict[str, inspect.Parameter]:
    """Return a method's settings by name."""
    found = inspect.signature(module.merge).parameters.values()
    return {p.name: p for p in found if p.kind is p.KEYWORD_ONLY and p.name not in SUPPLIED}


def hint_of(module: ModuleType, name: str) -> Any:
    """Return a setting's type; those of the tensors stay unread, which would take importing torch."""
    written = module.merge.__annotations__
    if name not in written:
        return None
    only = SimpleNamespace(__annotations__={name: written[name]})
    return typing.get_type_hints(only, vars(module))[name]


def is_per_model(module: ModuleType, name: str) -> bool:
    """Return whether a setting may differ from model to model."""
    hint = hint_of(module, name)
    return any(typing.get_origin(part) is Sequence for part in typing.get_args(hint))


def resolve(
    module: ModuleType, common: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the keyword arguments for `merge`: defaults, then the preset, common and per-model settings.

    Raises one `ConfigError` that names everything wrong.
    """
    name = module.__name__.rpartition(".")[2]
    known = allowed(module)
    wrong: list[str] = []
    given = {**_preset(module, name, common.get("preset"), known, wrong)}
    for key, value in common.items():
        if key == "preset":
            continue
        if key not in known:
            wrong.append(unknown("setting", key, [*known, "preset"]))
        elif problem := _problem(module, key, value, len(models)):
            wrong.append(problem)
        else:
            given[key] = value
    for key in sorted({key for own in models for key in own}):
        if key not in known:
            wrong.append(unknown("setting of a model", key, known))
        elif not is_per_model(module, key):
            wrong.append(f"{key} is one setting for all models; give it under settings")
        else:
            usual = given.get(key, known[key].default)
            values = usual if isinstance(usual, (list, tuple)) else [usual] * len(models)
            given[key] = [own.get(key, value) for own, value in zip(models, values, strict=True)]
            if problem := _problem(module, key, given[key], len(models)):
                wrong.append(problem)
    if wrong:
        raise ConfigError(f"{name}: {'; '.join(wrong)}")
    return given


def rehearse(module: ModuleType, settings: Mapping[str, Any], count: int) -> None:
    """Call a method once on small random deltas, so that values out of range are told before work begins."""
    draw = np.random.default_rng(0)
    deltas: list[Any] = [draw.standard_normal((4, 4), dtype=np.float32) for _ in range(count)]
    if not takes_arrays(module):
        deltas = [torch.from_numpy(delta) for delta in deltas]
    with np.errstate(all="ignore"):
        module.merge(deltas, None, **settings)


def takes_arrays(module: ModuleType) -> bool:
    """Return whether a method works on NumPy arrays as well as on tensors: its ``ARRAYS``."""
    return bool(getattr(module, "ARRAYS", False))


def needs_torch(planned: Plan, adapters: bool) -> bool:
    """Return whether a plan is more than NumPy can do: adapters, other types, methods for tensors alone."""
    used = {step.method or planned.spec.method for step in planned.steps if step.action == "merge"}
    numpy_does = planned.kind == "model" and planned.spec.recipe is None and not adapters
    return not (numpy_does and all(takes_arrays(method(name)) for name in used))


def _preset(module: ModuleType, name: str, preset: Any, known: Any, wrong: list[str]) -> dict[str, Any]:
    presets: dict[str, dict[str, Any]] = getattr(module, "PRESETS", {})
    if preset is None:
        return {}
    if preset not in presets:
        wrong.append(unknown(f"preset of {name}", str(preset), presets))
        return {}
    return dict(presets[preset])


def _problem(module: ModuleType, key: str, value: Any, count: int) -> str | None:
    hint = hint_of(module, key)
    choices = [c for part in (hint, *typing.get_args(hint)) for c in _literals(part)]
    if choices:
        return None if value in choices else unknown(f"value of {key}", str(value), map(str, choices))
    if isinstance(value, (list, tuple)):
        if not is_per_model(module, key):
            return f"{key} takes one value, not a list"
        if len(value) != count:
            return f"{key} has {len(value)} values for {count} models"
        problems = [_problem(module, key, item, count) for item in value]
        return next((problem for problem in problems if problem), None)
    if hint is bool:
        return None if isinstance(value, bool) else f"{key} must be true or false, not {value!r}"
    numbers = (hint, *typing.get_args(hint))
    if int in numbers and float not in numbers:
        return None if type(value) is int else f"{key} must be a whole number, not {value!r}"
    if float in numbers:
        fine = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
        return None if fine and abs(value) != float("inf") else f"{key} must be a number, not {value!r}"
    return None


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()

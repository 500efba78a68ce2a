"""The parameters of mergekit's methods: which there are, their value for one tensor, and what we call them.

A value is plain, a gradient over the layers (a list), or the first of several ``{filter, value}`` whose
filter is part of the tensor's name. What a model, a slice or a module says comes before what the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import ConfigError, unknown

REQUIRED = object()
Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: its type, what it is by default, whether each model has its own, and our name for it."""

    kind: Literal["number", "whole", "switch"] = "number"
    default: Any = REQUIRED
    per_model: bool = False
    ours: str = ""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method takes: its parameters, how it treats the base, and how many models (low, high).

    takes_base   the base is mixed in like the other models; for slerp and nearswap it comes first
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    base: Literal["needed", "optional", "ignored"] = "needed"
    takes_base: bool = False
    models: tuple[int, int] = (0, 10**6)


def _switch(default: bool, ours: str = "") -> Parameter:
    return Parameter(kind="switch", default=default, ours=ours)


def _differences(normalise: bool, rescale: bool, **more: Parameter) -> Method:
    """Return a method of the task-arithmetic family."""
    return Method(
        parameters={
            "weight": Parameter(per_model=True),
            "density": Parameter(default=1.0, per_model=True),
            "lambda": Parameter(default=1.0, ours="scale"),
            "normalize": _switch(normalise, "normalise"),
            "int8_mask": _switch(False),
            "rescale": _switch(rescale),
            **more,
        }
    )


_GAMMA = Parameter(default=0.01, per_model=True)
_EPSILON = Parameter(default=0.15, per_model=True)
_WEIGHT = Parameter(per_model=True)
_TWO = (2, 2)
#: mergekit's methods and what they take; the defaults are mergekit's.
METHODS: dict[str, Method] = {
    "linear": Method(
        parameters={"weight": _WEIGHT, "normalize": _switch(True, "normalise")},
        base="ignored", takes_base=True, models=(1, 10**6),
    ),
    "slerp": Method(parameters={"t": Parameter()}, takes_base=True, models=_TWO),
    "nearswap": Method(parameters={"t": Parameter()}, takes_base=True, models=_TWO),
    "nuslerp": Method(
        parameters={
            "weight": _WEIGHT, "nuslerp_row_wise": _switch(False), "nuslerp_flatten": _switch(True),
        },
        base="optional", models=_TWO,
    ),
    "multislerp": Method(
        parameters={
            "weight": _WEIGHT, "eps": Parameter(default=1e-8),
            "normalize_weights": _switch(True, "normalise"),
        },
        base="optional", models=(1, 10**6),
    ),
    "karcher": Method(
        parameters={
            "max_iter": Parameter(kind="whole", default=10, ours="steps"),
            "tol": Parameter(default=1e-5, ours="tolerance"),
        },
        base="ignored", takes_base=True, models=(1, 10**6),
    ),
    "passthrough": Method(
        parameters={"scale": Parameter(default=None, per_model=True)},
        base="ignored", takes_base=True, models=(1, 1),
    ),
    "model_stock": Method(parameters={"filter_wise": _switch(False)}, models=(2, 10**6)),
    "sce": Method(
        parameters={"int8_mask": _switch(False), "select_topk": Parameter(default=1.0, ours="topk")}
    ),
    "ram": Method(parameters={"epsilon": Parameter(default=1e-5)}),
    "ramplus_tl": Method(
        parameters={
            "r": Parameter(default=0.1), "alpha": Parameter(default=0.2), "epsilon": Parameter(default=1e-5),
        }
    ),
    "arcee_fusion": Method(models=(1, 1)),
    "task_arithmetic": _differences(False, False),
    "ties": _differences(True, False),
    "dare_ties": _differences(False, True),
    "dare_linear": _differences(False, True),
    "breadcrumbs": _differences(False, False, gamma=_GAMMA),
    "breadcrumbs_ties": _differences(False, False, gamma=_GAMMA),
    "della": _differences(True, True, epsilon=_EPSILON),
    "della_linear": _differences(False, True, epsilon=_EPSILON),
}  # fmt: skip
#: Parameters that choose another method of ours.
_CHOOSING = ("filter_wise", "nuslerp_row_wise", "nuslerp_flatten")
_ELECTING = ("ties", "dare_ties", "breadcrumbs_ties", "della")


def check_parameters(method: str, given: Values, where: str) -> list[str]:
    """Return what is wrong with parameters; those of other methods have no effect, as in mergekit."""
    own = METHODS[method].parameters
    others = {name for other in METHODS.values() for name in other.parameters}
    wrong = []
    for name, value in given.items():
        if name not in others:
            wrong.append(f"{where}: {unknown(f'parameter of {method}', str(name), own)}")
        elif name in own:
            try:
                _check(own[name], value)
            except ConfigError as error:
                wrong.append(f"{where}.{name}: {error}")
    return wrong


def resolve(
    method: str,
    models: Sequence[tuple[str, Sequence[Values]]],
    shared: Sequence[Values],
    name: str,
    t: float,
) -> dict[str, Any]:
    """Return a method's parameters for one tensor, by mergekit's names; per-model ones as lists.

    ``models`` are (the tensor's name there, where to look in order), ``shared`` is where to look for the
    rest, ``name`` the tensor in the output and ``t`` in [0, 1] how deep it lies.
    """
    found: dict[str, Any] = {}
    for key, parameter in METHODS[method].parameters.items():
        if parameter.per_model:
            found[key] = [_first(parameter, key, scopes, own, t) for own, scopes in models]
        else:
            found[key] = _first(parameter, key, shared, name, t)
    return found


def translate(method: str, values: Values) -> tuple[str, dict[str, Any]]:
    """Return our method and its settings for mergekit's parameters; `ConfigError` for what we do not have."""
    own = METHODS[method].parameters
    found = {parameter.ours or key: values[key] for key, parameter in own.items()}
    for key in ("int8_mask", "eps", *_CHOOSING):
        found.pop(key, None)
    if values.get("filter_wise"):
        return "model_stock_rows", found
    if not values.get("nuslerp_flatten", True):
        along = "column" if values["nuslerp_row_wise"] else "row"
        return "nuslerp_rows", {**found, "along": along}
    if "lambda" in own:
        found = _of_differences(method, found)
    if method == "sce":
        found["topk"] = min(found["topk"], 1.0)
    if method == "passthrough":
        found["scale"] = 1.0 if found["scale"][0] is None else found["scale"][0]
    return method, found


def _of_differences(method: str, values: dict[str, Any]) -> dict[str, Any]:
    rescale, normalise = values.pop("rescale"), values["normalise"]
    found = {**values, "normalise": "weights" if normalise else "none"}
    if method.startswith(("dare", "della")):
        found["rescale"] = "l1" if rescale else "none"
    elif rescale and method != "task_arithmetic":  # which drops nothing that it could make up for
        raise ConfigError(f"merge_method {method} is supported with rescale: false only")
    if method == "task_arithmetic":
        del found["density"]
        return found
    empty = [density <= 0 for density in found["density"]]
    if any(empty) and normalise and method not in _ELECTING:
        raise ConfigError(
            f"merge_method {method} with normalize: true is supported with densities above 0 only"
        )
    # What keeps nothing adds nothing, so that its weight may as well be 0.
    found["weight"] = [0.0 if none else w for none, w in zip(empty, found["weight"], strict=True)]
    found["density"] = [1.0 if none else min(d, 1.0) for none, d in zip(empty, found["density"], strict=True)]
    return found


def _first(parameter: Parameter, key: str, scopes: Sequence[Values], name: str, t: float) -> Any:
    for scope in scopes:
        if key in scope:
            value = _value(parameter, scope[key], name, t)
            if value is not None:
                return value
    if parameter.default is REQUIRED:
        raise ConfigError(f"'{name}' has no {key}; give it under parameters, of each model or of all")
    return parameter.default


def _value(parameter: Parameter, given: Any, name: str, t: float) -> Any:
    """Return a setting's value for one tensor, or None if no filter lets it through."""
    cases = [given] if isinstance(given, Mapping) else given
    if not isinstance(cases, list):
        return _scalar(parameter, cases)
    if cases and isinstance(cases[0], Mapping):
        for case in cases:
            wanted = case.get("filter")
            if wanted is None or wanted == "*" or wanted in name:
                return _value(parameter, case["value"], name, t)
        return None
    points = [_scalar(parameter, point) for point in cases]
    if parameter.kind == "switch":
        return points[int(t * (len(points) - 1))]
    place = t * (len(points) - 1)
    low = int(place)
    high = min(len(points) - 1, low + 1)
    return _scalar(parameter, (1 - (place - low)) * points[low] + (place - low) * points[high])


def _check(parameter: Parameter, given: Any) -> None:
    """Raise `ConfigError` unless a setting is a value, a gradient, or a list of filters and values."""
    if isinstance(given, Mapping) or (isinstance(given, list) and any(isinstance(x, Mapping) for x in given)):
        for case in [given] if isinstance(given, Mapping) else given:
            if not isinstance(case, Mapping) or "value" not in case or set(case) - {"filter", "value"}:
                raise ConfigError(f"a case is a mapping with filter and value, not {case!r}")
            if not isinstance(case.get("filter"), (str, type(None))):
                raise ConfigError(f"a filter is a part of a tensor's name, not {case['filter']!r}")
            if isinstance(case["value"], Mapping):
                raise ConfigError(f"a case's value is a value or a gradient, not {case['value']!r}")
            _check(parameter, case["value"])
        return
    if isinstance(given, list) and not given:
        raise ConfigError("a gradient needs at least one value")
    for point in given if isinstance(given, list) else [given]:
        _scalar(parameter, point)


def _scalar(parameter: Parameter, value: Any) -> Any:
    read: dict[str, Callable[[Any], Any]] = {"number": _number, "whole": _whole, "switch": _truth}
    if value is None and parameter.default is None:
        return None
    return read[parameter.kind](value)


def _number(value: Any) -> float:
    try:
        found = float(value)  # YAML takes 1e-4, without a point, for a word
    except (TypeError, ValueError):
        found = float("nan")
    if found != found or abs(found) == float("inf"):
        raise ConfigError(f"must be a number, not {value!r}")
    return found


def _whole(value: Any) -> int:
    found = _number(value)
    if found != int(found):
        raise ConfigError(f"must be a whole number, not {value!r}")
    return int(found)


def _truth(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    found = words.get(str(value).lower())
    if found is None:
        raise ConfigError(f"must be true or false, not {value!r}")
    return found

"""Turning what stands in a file or on the command line into the type a setting asks for."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from studio.errors import unknown

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NONE = {"none", "null", "~", ""}
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


class Wrong(ValueError):
    """What is wrong with a value, as the end of a sentence that starts with the setting's name."""


def convert(hint: Any, value: Any) -> Any:
    """Return ``value`` as the type ``hint``; text is parsed, other values are checked.

    Raises:
        Wrong: if the value is not of this type and cannot be read as it.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value)
    if origin is Literal:
        return _literal(arguments, value)
    if origin is tuple or hint is tuple:
        return _tuple(arguments, value)
    if origin is dict or hint is dict:
        return _dict(arguments, value)
    if dataclasses.is_dataclass(hint):
        return _group(hint, value)
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    raise TypeError(f"a setting cannot be of type {hint!r}")


def type_name(hint: Any) -> str:
    """Return a type as a user reads it: ``int``, ``float | none``, ``a|b``, ``list of int``, ``mapping``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if hint is type(None):
        return "none"
    if origin is Literal:
        return "|".join(str(argument) for argument in arguments)
    if origin in (tuple, list, Sequence):
        return f"list of {type_name(arguments[0])}"
    if origin is dict or hint is dict:
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "settings"
    names = {str: "text", Path: "path", bool: "true|false", Any: "any"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def _one_of(arguments: tuple[Any, ...], value: Any) -> Any:
    """Return the value as the first alternative that takes it; none and null mean None where allowed."""
    if type(None) in arguments and (value is None or (isinstance(value, str) and value.lower() in _NONE)):
        return None
    reasons = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return convert(argument, value)
        except Wrong as wrong:
            reasons.append(str(wrong))
    if len(reasons) == 1:
        raise Wrong(reasons[0])
    raise Wrong(f"must be {' or '.join(type_name(a) for a in arguments)}, not {_show(value)}")


def _literal(arguments: tuple[Any, ...], value: Any) -> Any:
    """Return the one of the allowed values that reads like ``value``."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    for argument in arguments:
        if text == str(argument) or (isinstance(argument, bool) and text == str(argument).lower()):
            return argument
    raise Wrong("has " + unknown("value", text, (str(argument) for argument in arguments)))


def _tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Return a tuple from a list, ``[a, b]`` or ``a,b``; one plain value is a tuple of one."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            value = parse(text)
        else:
            value = [part.strip() for part in text.split(",")] if text else []
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Wrong(f"must be a list, not {_show(value)}")
    if not arguments:
        return tuple(value)
    if arguments[-1] is Ellipsis:
        return tuple(convert(arguments[0], inner) for inner in value)
    if len(value) != len(arguments):
        raise Wrong(f"must have {len(arguments)} entries, not {len(value)}")
    return tuple(convert(hint, inner) for hint, inner in zip(arguments, value, strict=True))


def _dict(arguments: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a dict with text keys from a mapping or from ``{a: 1, b: 2}``."""
    if isinstance(value, str):
        value = parse(value) if value.strip() else {}
    if not isinstance(value, Mapping):
        raise Wrong(f"must be a mapping, not {_show(value)}")
    hint = arguments[1] if len(arguments) == 2 else Any
    result = {}
    for key, inner in value.items():
        try:
            result[str(key)] = convert(hint, inner)
        except Wrong as wrong:
            raise Wrong(f"at '{key}' {wrong}") from None
    return result


def _group(hint: Any, value: Any) -> Any:
    """Return a group of settings from a mapping of some of its fields; the others are as they are without."""
    if isinstance(value, hint):
        return value
    if isinstance(value, str):
        value = parse(value) if value.strip() else {}
    if not isinstance(value, Mapping):
        raise Wrong(f"must be a mapping of settings, not {_show(value)}")
    hints = typing.get_type_hints(hint)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(hint)}
    result = {}
    for key, inner in value.items():
        if key not in fields:
            raise Wrong(f"has an {unknown('setting', str(key), fields)}")
        try:
            result[key] = convert(fields[key], inner)
        except Wrong as wrong:
            raise Wrong(f"at '{key}' {wrong}") from None
    return hint(**result)


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value) if isinstance(value, str) else _no(value, "a whole number")
    except ValueError:
        return _no(value, "a whole number")


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _no(value, "a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _no(value, "a number")
    return number if math.isfinite(number) else _no(value, "a finite number")


def _bool(value: Any) -> bool:
    text = str(value).lower()
    if isinstance(value, bool | str) and text in _TRUE | _FALSE:
        return text in _TRUE
    return _no(value, "true or false")


def _text(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _no(value, "text")


def _path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        return _no(value, "a path")
    return Path(value).expanduser()


_PLAIN: dict[Any, Any] = {int: _int, float: _float, bool: _bool, str: _text, Path: _path}


def _no(value: Any, wanted: str) -> typing.NoReturn:
    raise Wrong(f"must be {wanted}, not {_show(value)}")


def parse(text: str) -> Any:
    """Return text as the YAML value it spells; ``1e-4``, which YAML 1.1 reads as text, is a number.

    Raises:
        Wrong: if it is not valid YAML.
    """
    import yaml

    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError:
        raise Wrong(f"cannot be read: {_show(text)}") from None


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

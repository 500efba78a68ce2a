r"""``lr=1e-4,2e-4``: settings on the command line that list values to try, told apart from those that do not.

A comma separates values, except

    in settings that are lists themselves (``steps=normalise,language``),
    inside brackets and quotes (``augment=[{blur: {p: 0.5}}, {crop: {}}]``),
    in texts and paths where a space follows (``prompt="Hello, you"``), and
    after a backslash: ``data=a\,b`` is one path with a comma in it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPEN, CLOSE, QUOTES = "([{", ")]}", "\"'"


def split_lists(config: type[Any], overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the overrides that stand for themselves, and setting -> the values to try."""
    plain: list[str] = []
    lists: dict[str, list[str]] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        hint = hint_of(config, key.strip())
        if not equals or _is_list(hint):
            plain.append(override)
            continue
        values = split(value, spaced=not _is_text(hint))
        if len(values) == 1:
            plain.append(f"{key}={values[0]}")
        else:
            lists[key.strip()] = values
    return plain, lists


def split(text: str, *, spaced: bool) -> list[str]:
    """Return the values in ``text``; without ``spaced`` a comma with a space behind it separates nothing."""
    values, depth, quote = [""], 0, ""
    at = 0
    while at < len(text):
        sign, after = text[at], text[at + 1 : at + 2]
        at += 1
        if sign == "\\" and after == ",":
            values[-1] += ","
            at += 1
        elif sign == "," and not depth and not quote and (spaced or after != " "):
            values.append("")
        else:
            values[-1] += sign
            if sign in QUOTES and quote in ("", sign):
                quote = "" if quote else sign
            elif not quote:
                depth += (sign in OPEN) - (sign in CLOSE)
    if quote or depth:  # an apostrophe or a bracket that is part of a text
        return [text.replace("\\,", ",")]
    return [value.strip() for value in values] if len(values) > 1 else values


def hint_of(config: type[Any], key: str) -> Any:
    """Return the type of a dotted setting; Any where nothing is said of it."""
    hint: Any = config
    for name in key.split("."):
        options = [hint, *typing.get_args(hint)]
        group = next((each for each in options if dataclasses.is_dataclass(each)), None)
        if group is not None:
            hint = typing.get_type_hints(group).get(name, Any)
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        else:
            return Any
    return hint


def _is_list(hint: Any) -> bool:
    kinds = [hint, *typing.get_args(hint)]
    return any(kind in (tuple, list) or typing.get_origin(kind) in (tuple, list) for kind in kinds)


def _is_text(hint: Any) -> bool:
    return any(kind in (str, Path, Any) for kind in [hint, *typing.get_args(hint)])

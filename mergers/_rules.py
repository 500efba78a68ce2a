"""Rules of a merge file: which method and settings hold for which tensors; imports no torch.

    rules:                                                  # the first that matches a tensor decides
      - {match: vision, freeze: true}                       # the base's values
      - {match: llm.layers.0-3, method: linear, weight: [0.5, 0.5]}
      - {match: [embeddings, 're:q_proj'], density: 0.5}    # any of these
    weights_by_layer: {llm.layers.0-3: [0.7, 0.3], audio: [[1, 0], [0.5, 0.5]]}    # or a JSON file

Wherever a setting's value may stand, it may also vary from tensor to tensor:

    {layers: [0, 0.5, 1]}               a gradient over the layers of the tensor's own stack
    {layers: [0, 1], over: [8, 15]}     over some of them, with its ends held outside
    {cases: [{match: mlp, value: 0.3}, {value: 0.5}]}       the first case that matches

On a command line a rule is one text: ``vision: freeze``, or ``embeddings, norms: method=linear weight=0.5``.

A gradient is mergekit's: linear between its points, words and booleans by the nearest point below; a stack of
one layer takes the last point, and a tensor outside of any layer the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergers._groups import Groups, Subject, selector
from studio.errors import ConfigError, unknown

#: What a varying value gives where none of its cases matches: as if it were not there.
UNSET = object()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for the tensors that any of the selectors matches; ``method`` None is the merge's own."""

    match: tuple[str, ...]
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    freeze: bool = False

    @classmethod
    def from_mapping(cls, entry: Any) -> Rule:
        """Read a rule, also one written as a text; raises `ConfigError` with all that is wrong with it."""
        if isinstance(entry, str):
            entry = rule_of(entry)
        if not isinstance(entry, Mapping) or not entry.get("match"):
            raise ConfigError(
                f"a rule is a mapping with match, and method, settings or freeze; not {entry!r}"
            )
        match = entry["match"]
        texts = list(match) if isinstance(match, (list, tuple)) else [match]
        wrong = [f"match takes words, not {text!r}" for text in texts if not isinstance(text, str)]
        settings = {k: v for k, v in entry.items() if k not in ("match", "method", "freeze")}
        freeze, method = entry.get("freeze", False), entry.get("method")
        if not isinstance(freeze, bool):
            wrong.append(f"freeze must be true or false, not {freeze!r}")
        elif freeze and (settings or method):
            wrong.append(f"a rule that freezes has no other key than match, not {[*settings, *entry][0]!r}")
        elif not freeze and not settings and not method:
            wrong.append("it says nothing: give method, settings or freeze: true")
        wrong += [p for text in texts if isinstance(text, str) for p in problems(selector, text)]
        wrong += [p for value in settings.values() for p in problems(check_varying, value)]
        if wrong:
            raise ConfigError(f"the rule for {match!r}: {'; '.join(wrong)}")
        return cls(
            match=tuple(texts), method=str(method) if method else None, settings=settings, freeze=freeze
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the rule as `from_mapping` reads it."""
        match = self.match[0] if len(self.match) == 1 else list(self.match)
        if self.freeze:
            return {"match": match, "freeze": True}
        return {"match": match, **({"method": self.method} if self.method else {}), **self.settings}


def rule_of(text: str) -> dict[str, Any]:
    """Return the mapping of a rule in one text: ``SELECTOR, ...: KEY=VALUE ...`` or ``: freeze``.

    A selector that begins with ``re:`` is the last one, since it may hold commas. Raises `ConfigError`.
    """
    selectors, colon, rest = text.strip().partition(": ")
    match, pattern, expression = selectors.partition("re:")
    texts = [*(part.strip() for part in match.split(",")), pattern + expression]
    entry: dict[str, Any] = {"match": [part for part in texts if part]}
    for word in re.split(r"(?<![=,:\s])\s+(?=\w+\s*=|\w+$)", rest.strip()):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not (colon and entry["match"] and key) or (equals and not value):
            raise ConfigError(
                "a rule is written 'WHERE: KEY=VALUE ...' or 'WHERE: freeze', as in 'vision: weight=0.2', "
                f"not '{text}'"
            )
        if not equals and key != "freeze":
            raise ConfigError(f"the rule '{text}': {unknown('word', key, ['freeze'])}, or KEY=VALUE")
        try:
            entry[key] = yaml.safe_load(value) if equals else True
        except yaml.YAMLError:
            raise ConfigError(f"the rule '{text}': the value of {key} cannot be read") from None
    return entry


def problems(read: Callable[[Any], Any], value: Any) -> list[str]:
    """Return the sentence that reading a value raises, if any."""
    try:
        read(value)
    except ConfigError as error:
        return [str(error)]
    return []


def varies(value: Any) -> bool:
    """Return whether a value differs from tensor to tensor."""
    return isinstance(value, Mapping) or (
        isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value)
    )


def check_varying(value: Any) -> None:
    """Raise `ConfigError` for a varying value that is none; plain values are the methods' business."""
    if isinstance(value, (list, tuple)):
        for item in value:
            check_varying(item)
            if isinstance(item, Mapping) and "match" in (item.get("cases") or [{}])[-1]:
                raise ConfigError("cases in a list of one value per model must end with one without match")
    if not isinstance(value, Mapping):
        return
    keys = set(value)
    if keys == {"cases"} and isinstance(value["cases"], (list, tuple)) and value["cases"]:
        for case in value["cases"]:
            if not isinstance(case, Mapping) or not {"value"} <= set(case) <= {"match", "value"}:
                raise ConfigError(f"a case has value, and match but in the last, not {case!r}")
            if "match" in case:
                selector(str(case["match"]))
            check_varying(case["value"])
        return
    points = value.get("layers")
    plain = (
        isinstance(points, (list, tuple)) and points and all(isinstance(p, (int, float, str)) for p in points)
    )
    if not plain or not {"layers"} <= keys <= {"layers", "over"}:
        raise ConfigError(
            f"a value that varies is {{layers: [...]}} or {{cases: [...]}}, not {dict(value)!r}"
        )
    over = value.get("over", [0, 1])
    if not (isinstance(over, (list, tuple)) and len(over) == 2 and all(type(v) is int for v in over)):
        raise ConfigError(f"over takes the first and the last layer, as in [8, 15], not {over!r}")


def selectors_in(value: Any) -> Iterator[str]:
    """Yield the selectors of a varying value's cases."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from selectors_in(item)
    elif isinstance(value, Mapping):
        for case in value.get("cases", ()):
            if "match" in case:
                yield str(case["match"])
            yield from selectors_in(case["value"])


def settle(value: Any, subject: Subject, groups: Groups) -> Any:
    """Return what a value is for one tensor, or `UNSET`."""
    if isinstance(value, (list, tuple)):
        return [settle(item, subject, groups) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "cases" in value:
        for case in value["cases"]:
            if "match" not in case or selector(str(case["match"])).matches(subject):
                return settle(case["value"], subject, groups)
        return UNSET
    return _at(value["layers"], _depth(value, subject, groups))


def _depth(value: Mapping[str, Any], subject: Subject, groups: Groups) -> float:
    """Return how deep a tensor lies: 0 in the first layer and outside of them, 1 in the last."""
    group = subject.group
    if group.layer is None:
        return 0.0
    first, last = value.get("over") or (0, groups.layers[group.tower] - 1)
    if last == first:
        return 1.0
    return min(1.0, max(0.0, (group.layer - first) / (last - first)))


def _at(points: Sequence[Any], depth: float) -> Any:
    place = depth * (len(points) - 1)
    below = int(place)
    if any(isinstance(point, (str, bool)) for point in points):
        return points[below]
    above = min(len(points) - 1, below + 1)
    return (1 - (place - below)) * points[below] + (place - below) * points[above]


def read_table(given: Any) -> dict[str, list[Any]]:
    """Return a routing table: selector -> one weight per model, or stack -> one such row per layer.

    ``given`` is the table or the path of a JSON file with it; raises `ConfigError`.
    """
    if isinstance(given, (str, Path)):
        try:
            found = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"weights_by_layer: {given} cannot be read as JSON: {error}") from None
        given = found
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"weights_by_layer maps groups to weights, as in llm.layers.0: [1, 0], not {given!r}"
        )
    table = {}
    for key, row in given.items():
        rows = row if isinstance(row, (list, tuple)) and row and isinstance(row[0], (list, tuple)) else [row]
        for one in rows:
            if not isinstance(one, (list, tuple)) or not all(_is_number(value) for value in one):
                raise ConfigError(f"weights_by_layer: '{key}' takes one number per model, not {one!r}")
        selector(str(key))
        table[str(key)] = [list(one) for one in rows] if rows is row else list(row)
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def expand_table(table: Mapping[str, Sequence[Any]], models: int, groups: Groups) -> dict[str, list[float]]:
    """Return a table with rows per layer spelled out, checked against the layers and models there are."""
    found: dict[str, list[float]] = {}
    for key, rows in table.items():
        own = {key: rows}
        if rows and isinstance(rows[0], (list, tuple)):
            count = groups.layers.get(key)
            if count is None:
                sentence = unknown("stack of layers", key, groups.layers)
                raise ConfigError(f"weights_by_layer: {sentence}")
            if len(rows) != count:
                raise ConfigError(f"weights_by_layer: {key} has {count} layers, the table {len(rows)} rows")
            own = {f"{key}.layers.{i}": row for i, row in enumerate(rows)}
        for text, row in own.items():
            if len(row) != models:
                raise ConfigError(f"weights_by_layer: '{text}' has {len(row)} weights for {models} models")
            selector(text).check(groups)
            found[text] = list(row)
    return found

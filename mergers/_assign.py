"""Which method and which settings each tensor gets: rules, routing table, gradients and protection, settled.

Embeddings and norms are protected from methods that trim or drop single elements: their rows stand for words,
their few values for whole channels, and a part of them set back to the base is no smaller change but another
one. They get the plain weighted sum with the same weights. A rule that names a method or a density for them,
``protect: false``, or a preset that promises another program's results turns that off.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from mergers._groups import Groups, Subject, selector
from mergers._plan import Step
from mergers._rules import UNSET, Rule, expand_table, selectors_in, settle, varies
from mergers._settings import allowed, is_per_model, method, rehearse, resolve
from mergers._spec import MergeSpec
from studio.errors import ConfigError, MergeError

#: What protected tensors are merged by; it knows weight, scale and normalise as the sparsifying methods do.
PLAIN = "task_arithmetic"
#: Presets that promise to do exactly what another program does.
EXACT = ("mergekit", "peft")

Own = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What happens to one tensor. ``by`` says what decided: a rule, the table, protection, or nothing."""

    group: str
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""

    @property
    def frozen(self) -> bool:
        """Whether the base's values stay."""
        return not self.method


def sparsifies(module: ModuleType) -> bool:
    """Return whether a method trims or drops single elements."""
    return "density" in allowed(module) and not getattr(module, "INVARIANT", None)


def check_settings(spec: MergeSpec) -> None:
    """Raise `ConfigError` or `MergeError` for what is wrong whatever the tensors are."""
    if spec.recipe is not None:
        return  # checked when it was read, and slice by slice
    for rule in (None, *spec.rules):
        if rule is not None and rule.freeze:
            continue
        name = _method(spec, rule)
        wanted = getattr(method(name), "MODELS", None)
        if wanted is not None and len(spec.models) != wanted:
            raise MergeError(f"{name} merges {wanted} models, not {len(spec.models)}")
        steady = {k: v for k, v in rule.settings.items() if not varies(v)} if rule else {}
        common = {k: v for k, v in spec.settings.items() if not varies(v)}
        own = [{k: v for k, v in m.settings.items() if not varies(v)} for m in spec.models]
        _resolve(spec, rule, steady, common, own)


def assign(
    spec: MergeSpec, groups: Groups, subjects: Mapping[str, Subject], numbers: Sequence[int] | None = None
) -> dict[str, Choice]:
    """Return what happens to each tensor; ``groups`` knows all that selectors may match.

    ``numbers`` say which of the models these tensors come from, where it is not all of them.
    Raises `ConfigError` for a selector that matches nothing and for values out of range.
    """
    for text in _selectors(spec):
        selector(text).check(groups)
    table = expand_table(spec.weights_by_layer, len(spec.models), groups)
    known: dict[str, dict[str, Any]] = {}
    some = spec if numbers is None else _only(spec, numbers)
    rows = {key: row if numbers is None else [row[n] for n in numbers] for key, row in table.items()}
    return {name: _choose(some, subject, groups, rows, known) for name, subject in subjects.items()}


def survey_key(step: Step) -> str:
    """Return what tensors that are looked at together have in common: method and its survey's settings."""
    module = method(step.method)
    takes = inspect.signature(module.survey).parameters
    return json.dumps([step.method, {k: v for k, v in step.settings.items() if k in takes}], default=str)


def _only(spec: MergeSpec, numbers: Sequence[int]) -> MergeSpec:
    """Return the merge with some of its models, and of settings with one value per model their values."""
    count = len(spec.models)

    def some(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            k: [v[n] for n in numbers] if isinstance(v, (list, tuple)) and len(v) == count else v
            for k, v in settings.items()
        }

    if list(numbers) == list(range(count)):
        return spec
    rules = tuple(replace(rule, settings=some(rule.settings)) for rule in spec.rules)
    models = tuple(spec.models[n] for n in numbers)
    return replace(spec, models=models, settings=some(spec.settings), rules=rules)


def _choose(
    spec: MergeSpec,
    subject: Subject,
    groups: Groups,
    table: Mapping[str, list[float]],
    known: dict[str, dict[str, Any]],
) -> Choice:
    label = subject.group.label
    number, rule = next(
        ((i, r) for i, r in enumerate(spec.rules, 1) if any(selector(t).matches(subject) for t in r.match)),
        (0, None),
    )
    by = f"rule {number}" if rule else ""
    if rule is not None and rule.freeze:
        return Choice(group=label, by=by)

    def here(settings: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: settle(value, subject, groups) for key, value in settings.items()}
        return {key: value for key, value in found.items() if value is not UNSET}

    given, common = here(rule.settings if rule else {}), here(spec.settings)
    own: Own = [here(m.settings) for m in spec.models]
    row = next((row for text, row in table.items() if selector(text).matches(subject)), None)
    name = _method(spec, rule)
    if row is not None and "weight" not in given:
        if "weight" not in allowed(method(name)) or not is_per_model(method(name), "weight"):
            raise ConfigError(f"weights_by_layer: {name}, which merges {label}, has no weight per model")
        given["weight"], by = row, f"{by}, table".removeprefix(", ")
    key = json.dumps([number, given, common, own], default=str)
    if key not in known:
        known[key] = _resolve(spec, rule, given, common, own)
    settings, preset = known[key], given.get("preset", common.get("preset"))
    explicit = rule is not None and (rule.method is not None or "density" in rule.settings)
    protect = spec.protect if spec.protect is not None else preset not in EXACT
    if (
        protect
        and not explicit
        and subject.group.kind in ("embeddings", "norms")
        and sparsifies(method(name))
    ):
        return Choice(group=label, method=PLAIN, settings=_plain(name, settings), by="protected")
    return Choice(group=label, method=name, settings=settings, by=by)


def _method(spec: MergeSpec, rule: Rule | None) -> str:
    return (rule.method if rule else None) or spec.method


def _selectors(spec: MergeSpec) -> list[str]:
    values = [*spec.settings.values()]
    values += [value for m in spec.models for value in m.settings.values()]
    found: list[str] = []
    for rule in spec.rules:
        found += rule.match
        values += rule.settings.values()
    return [*found, *(text for value in values for text in selectors_in(value))]


def _resolve(
    spec: MergeSpec,
    rule: Rule | None,
    given: Mapping[str, Any],
    common: Mapping[str, Any],
    own: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a method's keyword arguments: the rule's settings over the models' over the common ones.

    A common or a model's setting that this method does not know is left out if another one of the merge does.
    """
    module = method(_method(spec, rule))
    others = {
        key for r in (None, *spec.rules) if not (r and r.freeze) for key in allowed(method(_method(spec, r)))
    }
    alien = others - set(allowed(module))
    shared = {k: v for k, v in common.items() if k not in alien and k not in given}
    preset = shared.get("preset")
    if rule is not None and rule.method and preset not in getattr(module, "PRESETS", {}):
        shared.pop("preset", None)
    mine = [{k: v for k, v in one.items() if k not in alien and k not in given} for one in own]
    try:
        settings = resolve(module, {**shared, **given}, mine)
        rehearse(module, settings, len(spec.models))
    except ConfigError as error:
        prefix = f"the rule for {' or '.join(rule.match)}: " if rule else ""
        raise ConfigError(f"{prefix}{error}") from None
    return settings


def _plain(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the plain sum that goes with a sparsifying method's."""
    theirs, ours = allowed(method(name)), allowed(method(PLAIN))
    return {key: settings.get(key, theirs[key].default) for key in ours if key in theirs}

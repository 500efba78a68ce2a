"""Taking an expert out of a merge whose tensors were merged in different ways: rules, tables, gradients.

What was done to each tensor follows from the rules and the names in the result. Tensors with the same end are
told together: by the selectors of the rule that decided where it decided alike, else by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergers._assign import Choice, assign
from mergers._groups import Groups, Subject, group_of, selector, subjects_of, towers_of
from mergers._rules import Rule, varies
from mergers._settings import allowed, is_per_model, method
from mergers._sources import Source
from mergers._spec import MergeSpec
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.module_names import weight_names

#: A method and its settings; None for tensors that keep the base's values.
End = tuple[str, dict[str, Any]] | None


def is_ruled(spec: MergeSpec) -> bool:
    """Return whether a merge treats its tensors differently."""
    values = [*spec.settings.values(), *(v for model in spec.models for v in model.settings.values())]
    return bool(spec.rules or spec.weights_by_layer or any(map(varies, values)))


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """What a merge did to each tensor of its result; ``spec`` has the rules that match something there.

    subjects   the result's tensors as selectors see them, and ``choices`` what was done to each
    adapters   of the inputs that are still there and are adapters: path -> the tensors that it changes
    is_adapter  whether the result is one, and ``lost`` what it then lacks since the rules froze it
    """

    spec: MergeSpec
    subjects: Mapping[str, Subject]
    choices: Mapping[str, Choice]
    adapters: Mapping[Path, Sequence[str]]
    is_adapter: bool
    lost: frozenset[str] = frozenset()

    @classmethod
    def read(cls, spec: MergeSpec, merged: Path, base: Path | None) -> Ruled:
        """Read it off the result's names; inputs and base add theirs where they are still there."""
        ground = _opened(base) if base else None
        there = {m.path: a for m in spec.models if (a := _adapter(m.path)) is not None}
        if is_adapter(merged):
            names, towers = _of_adapter(read_adapter(merged), list(there.values()), ground)
        else:
            names, towers = _of_model(Checkpoint(merged), list(there.values()))
        own = {path: [*(f"{n}.weight" for n in a.names()), *a.values] for path, a in there.items()}
        here, lost = {first for first, *_ in names}, dict[str, None]()
        if is_adapter(merged):
            lost = dict.fromkeys(name for part in own.values() for name in part if name not in here)
            names += [[name, name.removesuffix(".weight")] for name in lost]
        subjects = subjects_of(names, towers)
        beside = [*(n for part in own.values() for n in part), *(ground.names() if ground else ())]
        around = [Subject(names=(n,), group=group_of(n, towers)) for n in beside]
        groups = Groups(subjects=[*subjects.values(), *around], where=str(merged))
        spec = replace(spec, rules=tuple(_matching(spec.rules, groups.subjects)))
        return cls(
            spec=spec, subjects=subjects, choices=assign(spec, groups, subjects), adapters=own,
            is_adapter=is_adapter(merged), lost=frozenset(lost),
        )  # fmt: skip

    def without(self, number: int, average: bool) -> MergeSpec:
        """Return the merge of all models but one, with the same numbers where deltas were added up.

        With ``average`` the models themselves were added up, without a base.
        """
        rest = tuple(replace(m, settings={}) for i, m in enumerate(self.spec.models) if i != number)
        ends = {name: self._end(name, number, average) for name in self.choices}
        return self._told(replace(self.spec, models=rest), ends)

    def minus(self, spec: MergeSpec, number: int, average: bool, why: str) -> MergeSpec:
        """Return ``spec``, of the result and the expert that is taken out, with weights tensor by tensor.

        Raises `MergeError` naming the rule whose method does not add up, beginning with ``why`` that matters.
        """
        ends: dict[str, End] = {}
        for name, choice in self.choices.items():
            if choice.frozen and self.is_adapter:
                ends[name] = None
                continue
            found = self._coefficients(name)
            if found is None:
                raise MergeError(
                    f"{why}, and {self._by(name)} does not add up: what an expert left in '{name}' cannot be "
                    "told apart"
                )
            weight, part = found[number], 1.0
            if average and _is_mean(found):
                if abs(1 - weight) < 1e-6:
                    raise MergeError(f"{why}, and {spec.models[-1].path} is all that is left in '{name}'")
                part = 1 / (1 - weight)
            both = [part, -weight * part]
            ends[name] = _sum(both[-len(spec.models) :], average, mean=False)
        return self._told(replace(spec, models=tuple(replace(m, settings={}) for m in spec.models)), ends)

    def _coefficients(self, name: str) -> list[float] | None:
        """Return what each delta of a tensor was multiplied by, if that is all that was done to it."""
        choice, count = self.choices[name], len(self.spec.models)
        if choice.frozen:
            return [0.0] * count
        chosen = method(choice.method)
        if not hasattr(chosen, "coefficients"):
            return None
        return [float(value) for value in chosen.coefficients(count, **choice.settings)]

    def _by(self, name: str) -> str:
        """Return how messages call what decided about a tensor: its rule, or the method alone."""
        choice = self.choices[name]
        number = re.match(r"rule (\d+)", choice.by)
        if number is None:
            return choice.method
        return f"{choice.method} of the rule for {' or '.join(self.spec.rules[int(number[1]) - 1].match)}"

    def _end(self, name: str, number: int, average: bool) -> End:
        choice, weights = self.choices[name], self._coefficients(name)
        if choice.frozen:
            return None
        if weights is not None:
            kept = [weight for i, weight in enumerate(weights) if i != number]
            return _sum(kept, average, mean=_is_mean(weights))
        chosen, left = method(choice.method), len(self.spec.models) - 1
        wanted = getattr(chosen, "MODELS", left)
        if wanted != left:
            raise MergeError(
                f"{self._by(name)} merges {wanted} models; without {self.spec.models[number].path} "
                f"there {'is' if left == 1 else 'are'} {left}"
            )
        settings = {
            key: [v for i, v in enumerate(value) if i != number]
            if isinstance(value, list) and is_per_model(chosen, key)
            else value
            for key, value in choice.settings.items()
        }
        return choice.method, settings

    def _told(self, spec: MergeSpec, ends: dict[str, End]) -> MergeSpec:
        """Return a merge in which each tensor comes to its end, by the settings or by a rule."""
        if self.is_adapter:
            there = [self.adapters[m.path] for m in spec.models if m.path in self.adapters]
            has = {name for own in there for name in own}
            if len(there) < len(spec.models):  # the result itself takes part
                has |= set(self.choices) - self.lost
            ends = {name: end for name, end in ends.items() if name in has}
        alike: dict[str, tuple[End, dict[str, list[str]]]] = {}
        for name, end in ends.items():
            alike.setdefault(json.dumps(end), (end, {}))[1].setdefault(self.choices[name].by, []).append(name)
        merging = [(end, own) for end, own in alike.values() if end is not None]
        if not merging:
            raise MergeError("the rules keep the base's values everywhere; there is nothing to take out")
        usual, _ = max(merging, key=lambda item: sum(map(len, item[1].values())))
        named: list[Rule] = []
        ruled: dict[int, Rule] = {}
        for end, groups in alike.values():
            for by, own in groups.items():
                number = re.fullmatch(r"rule (\d+)", by)
                if number and all(by not in other for e, other in alike.values() if e != end):
                    texts = self.spec.rules[int(number[1]) - 1].match
                    known = [self.subjects[name] for name in own]
                    match = tuple(t for t in texts if any(selector(t).matches(s) for s in known))
                    ruled[int(number[1])] = _rule(match, end, usual)
                elif by or end != usual:
                    named.append(_rule((f"re:^(?:{'|'.join(map(re.escape, own))})$",), end, usual))
        rules = (*named, *(ruled[number] for number in sorted(ruled)))
        name, settings = usual
        return replace(spec, method=name, settings=settings, rules=rules, weights_by_layer={}, protect=False)


def _is_mean(weights: Sequence[float]) -> bool:
    return abs(sum(weights) - 1) < 1e-6


def _sum(weights: list[float], average: bool, *, mean: bool) -> End:
    """Return the plain sum, of deltas or of models; with ``mean`` the weights are divided by their sum."""
    if average:
        return "linear", {"weight": weights, "normalise": mean}
    return "task_arithmetic", {"weight": weights}


def _rule(match: tuple[str, ...], end: End, usual: End) -> Rule:
    """Return the rule that leads to an end, without anything of the usual settings."""
    if end is None:
        return Rule(match=match, freeze=True)
    name, settings = end
    known = allowed(method(name))
    others = {key: known[key].default for key in (usual[1] if usual else ()) if key in known}
    return Rule(match=match, method=name, settings={**others, **settings})


def _matching(rules: Iterable[Rule], subjects: Sequence[Subject]) -> Iterable[Rule]:
    """Yield the rules with the selectors that match something: what they froze may be gone from a result."""
    for rule in rules:
        match = tuple(t for t in rule.match if any(selector(t).matches(s) for s in subjects))
        if match:
            yield replace(rule, match=match)


def _of_model(
    merged: Checkpoint, adapters: Sequence[Adapter]
) -> tuple[list[list[str]], Mapping[str, Sequence[str]]]:
    modules: dict[str, list[str]] = {}
    for adapter in adapters:
        for tensor, module in Source(donor=merged, adapter=adapter).modules.items():
            modules.setdefault(tensor, []).append(module)
    return [[name, *modules.get(name, ())] for name in merged.names()], towers_of(merged.config)


def _of_adapter(
    merged: Adapter, adapters: Sequence[Adapter], base: Checkpoint | None
) -> tuple[list[list[str]], Mapping[str, Sequence[str]]]:
    shapes = {name: merged.shape(name) for name in merged.names()}
    places = weight_names(shapes, base) if base is not None else {}
    names = [[f"{name}.weight", name, places.get(name, name)] for name in shapes]
    family = next((a.family for a in (merged, *adapters) if a.family), "")
    return [*names, *([name] for name in merged.values)], towers_of(base.config if base else {}, family)


def _adapter(path: Path) -> Adapter | None:
    try:
        return read_adapter(path) if is_adapter(path) else None
    except CheckpointError:
        return None


def _opened(path: Path) -> Checkpoint | None:
    try:
        return Checkpoint(path)
    except CheckpointError:
        return None

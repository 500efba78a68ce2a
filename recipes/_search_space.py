"""What a search for a merge may choose: a method, weights of experts by group, and settings of the method.

Ranges come from the methods' signatures: numbers that `RANGES` knows are searched, others keep their
defaults. A user's space replaces them, for all methods or for one:

    weight: {low: 0, high: 2}       of every expert, in every group
    density: [0.2, 0.5, 0.9]        of every method that has one
    ties.elect: [raw, weighted]     of one method
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna import Trial

from mergers import MergeSpec
from mergers._groups import TOWERS, Groups, group_of, selector, subjects_of, towers_of
from mergers._settings import allowed, is_per_model, method
from recipes._search_makers import MAKERS, defaults_of, settings_of
from recipes._space import Choice, Range, read_space
from studio import plugins
from studio.adapters import read_adapter
from studio.errors import ConfigError, unknown

WEIGHT = "weight"
#: Where settings are searched, by their names.
RANGES: Mapping[str, Choice | Range] = {
    WEIGHT: Range(low=0.0, high=1.5),
    "density": Range(low=0.05, high=1.0),
    "scale": Range(low=0.3, high=3.0, log=True),
    "gamma": Range(low=0.0, high=0.05),
    "ridge": Range(low=1e-4, high=1.0, log=True),
    "common": Range(low=0.0, high=1.0),
    "share": Range(low=0.1, high=1.0),
    "topk": Range(low=0.05, high=1.0),
    "t": Range(low=0.0, high=1.0),
    "repair": Range(low=0.0, high=1.0),
    "answer_weight": Range(low=0.3, high=30.0, log=True),
    "balance": Range(low=0.0, high=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One merge that a search may try.

    ``weights`` maps a group, or "" for all the rest, to one weight for each expert; ``settings`` are the
    method's, ``own`` those of a group alone.
    """

    method: str
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def spec(self, base: Path, experts: Sequence[Path], seed: int) -> MergeSpec:
        """Return the merge as `triptych merge` takes it."""
        takes = takes_weights(self.method)
        settings = dict(self.settings)
        if takes and "" in self.weights:
            settings[WEIGHT] = list(self.weights[""])
        rules = []
        for group in dict.fromkeys([*self.weights, *self.own]):
            rule = {**self.own.get(group, {})}
            if takes and group in self.weights:
                rule[WEIGHT] = list(self.weights[group])
            if group and rule:
                rules.append({"match": group, **rule})
        return MergeSpec.from_mapping(
            {
                "method": self.method,
                "base": str(base),
                "models": [{"path": str(path)} for path in experts],
                "settings": settings,
                "rules": rules,
                "output": "adapter",
                "seed": seed,
            },
            where="a candidate",
        )

    def told(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "method": self.method, "weights": {k: list(v) for k, v in self.weights.items()},
            "settings": dict(self.settings), "own": {k: dict(v) for k, v in self.own.items()},
        }  # fmt: skip


class Space:
    """All candidates, and how a trial draws one of them."""

    def __init__(
        self,
        methods: Sequence[str],
        experts: Mapping[str, Path],
        groups: Sequence[str],
        by_group: Sequence[str],
        space: Mapping[str, Any],
    ) -> None:
        """Check that everything named is there.

        Raises:
            ConfigError: methods that need what a search does not have, or a space for what no method knows.
            UnknownName: a method that does not exist.
        """
        self.experts = tuple(experts)
        self.methods = tuple(dict.fromkeys(_method(name, len(experts)) for name in methods))
        self.touching = _groups(experts, groups)
        self._given = read_space(space)
        self._by_group = tuple(by_group)
        self.settings = {name: self._settings(name) for name in self.methods}
        self._check()

    def draw(self, trial: Trial) -> Candidate:
        """Let a trial choose. Weights are chosen for every method, so that samplers can compare them."""
        name = self.methods[0]
        if len(self.methods) > 1:
            name = trial.suggest_categorical("method", list(self.methods))
        weights = {
            group: tuple(
                self._range(WEIGHT).draw(trial, ".".join([WEIGHT, expert, *([group] if group else [])]))
                if touched
                else 0.0
                for expert, touched in zip(self.experts, changed, strict=True)
            )
            for group, changed in self.touching.items()
        }
        settings: dict[str, Any] = {}
        own: dict[str, dict[str, Any]] = {}
        for key, values in self.settings[name].items():
            if key in self._by_group and list(self.touching) != [""]:
                for group in self.touching:
                    into = own.setdefault(group, {}) if group else settings
                    into[key] = values.draw(trial, f"{name}.{key}.{group}" if group else f"{name}.{key}")
            else:
                settings[key] = values.draw(trial, f"{name}.{key}")
        return Candidate(method=name, weights=weights, settings=settings, own=own)

    def known(self) -> list[dict[str, Any]]:
        """Return parameters of merges that are known to be worth a try: methods as they come.

        Each with equal weights that add up to 1, and with weights of 1; what the ranges leave out is drawn.
        """
        found: list[dict[str, Any]] = []
        for name in self.methods:
            for weight in (1.0, 1.0 / len(self.experts)) if name not in MAKERS else (1.0,):
                place = self._range(WEIGHT).place(weight)
                params = {"method": name} if len(self.methods) > 1 else {}
                params |= {
                    ".".join([WEIGHT, expert, *([group] if group else [])]): place
                    for group, changed in self.touching.items()
                    for expert, touched in zip(self.experts, changed, strict=True)
                    if touched
                }
                defaults = defaults_of(name)
                for key, values in self.settings[name].items():
                    given = values.place(defaults.get(key))
                    groups = self.touching if key in self._by_group else [""]
                    params |= {
                        f"{name}.{key}.{group}" if group else f"{name}.{key}": given for group in groups
                    }
                found.append({key: value for key, value in params.items() if value is not None})
        return found

    def _range(self, name: str, of: str = "") -> Choice | Range:
        return self._given.get(f"{of}.{name}") or self._given.get(name) or RANGES[name]

    def _settings(self, name: str) -> dict[str, Choice | Range]:
        """Return what is searched of a method beside the weights."""
        known = settings_of(name)
        return {
            key: self._range(key, name)
            for key in known
            if key != WEIGHT
            and (
                key in self._given
                or f"{name}.{key}" in self._given
                or (key in RANGES and key not in _fixed(name))
            )
        }

    def _check(self) -> None:
        every = {name: settings_of(name) for name in self.methods}
        known = {WEIGHT, *(key for keys in every.values() for key in keys)}
        known |= {f"{name}.{key}" for name, keys in every.items() for key in keys}
        wrong = [
            unknown("setting of a method in space", key, known) for key in self._given if key not in known
        ]
        wrong += [unknown("setting in by_group", key, known) for key in self._by_group if key not in known]
        if wrong:
            raise ConfigError("; ".join(wrong))
        for name in self.methods:
            if takes_weights(name) or self.settings[name] or len(self.methods) > 1:
                continue
            raise ConfigError(f"{name} has nothing to search; give space.{name}.SETTING or further methods")


def takes_weights(name: str) -> bool:
    """Return whether a method takes a weight for each expert."""
    if name in MAKERS:
        return WEIGHT in settings_of(name)
    module = method(name)
    return WEIGHT in allowed(module) and is_per_model(module, WEIGHT)


def _fixed(name: str) -> tuple[str, ...]:
    """Return what is not searched unless asked for: the scale of a sum, whose weights say the same."""
    return ("scale",) if name not in MAKERS and hasattr(method(name), "coefficients") else ()


def _method(name: str, count: int) -> str:
    if name in MAKERS:
        return name
    known = [*plugins.names("methods"), *MAKERS]
    if name not in plugins.names("methods"):
        raise ConfigError(f"methods: {unknown('method', name, known)}")
    module = method(name)
    wanted = getattr(module, "MODELS", None)
    if wanted is not None and wanted != count:
        raise ConfigError(f"methods: {name} merges {wanted} experts, not {count}")
    if hasattr(module, "STATISTICS"):
        raise ConfigError(f"methods: {name} needs files of statistics, which a search does not make")
    return name


def _groups(experts: Mapping[str, Path], groups: Sequence[str]) -> dict[str, tuple[bool, ...]]:
    """Return group -> which experts change it; "" stands for modules that are in none.

    Raises:
        ConfigError: a group that matches nothing, or says what is no group.
    """
    opened = [read_adapter(path) for path in experts.values()]
    known = towers_of({}, opened[0].family)
    paths = list(dict.fromkeys(name for adapter in opened for name in adapter.names()))
    if list(groups) == ["towers"]:
        there = {group_of(path, known).tower for path in paths}
        groups = [tower for tower in TOWERS if tower in there]
    subjects = subjects_of(([path] for path in paths), known)
    every = Groups(subjects=[*subjects.values()], where="these experts")
    left, found = dict(subjects), dict[str, tuple[bool, ...]]()
    for text in groups:
        selector(text).check(every)
        taken = [path for path, subject in left.items() if selector(text).matches(subject)]
        if not taken:
            raise ConfigError(f"groups: those before '{text}' leave nothing to it")
        found[text] = _changed(opened, taken)
        left = {path: subject for path, subject in left.items() if path not in taken}
    if left:
        found[""] = _changed(opened, left)
    return found


def _changed(opened: Sequence[Any], paths: Iterable[str]) -> tuple[bool, ...]:
    some = set(paths)
    return tuple(bool(some & set(adapter.names())) for adapter in opened)

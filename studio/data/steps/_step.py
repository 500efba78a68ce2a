"""What a step is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio import plugins
from studio.cache import Kept
from studio.config import from_dict, to_dict
from studio.errors import ConfigError, TriptychError
from studio.log import Log
from studio.types import Sample

Place = tuple[Path, int]
"""A row's data file and its line, from 1."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is done to one row and why: ``new`` stands in its place, None removes it."""

    at: Place
    reason: str
    new: Sample | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The edits of a step in the order of the rows, and its figures as plain JSON values."""

    edits: Sequence[Edit] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What steps work with: where they report, what is known from earlier runs, and the run's seed."""

    log: Log
    kept: Kept
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step with its settings, ready to run."""

    name: str
    settings: Any
    run: Callable[[Sequence[Sample], Any, Bench], Outcome]
    inputs: Callable[[Any], Mapping[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return the name and the settings as they stand in a report."""
        return {"name": self.name, "settings": to_dict(self.settings)}


def removal(sample: Sample, reason: str) -> Edit:
    """Return the edit that removes a row."""
    return Edit(at=place(sample), reason=reason)


def change(sample: Sample, new: Sample, reason: str) -> Edit:
    """Return the edit that puts ``new`` in a row's place."""
    return Edit(at=place(sample), reason=reason, new=new)


def place(sample: Sample) -> Place:
    """Return where a row stands."""
    return sample.file, sample.line


def name_of(sample: Sample, other: Sample) -> str:
    """Return how a reason about ``other`` names ``sample``: by its line, and its file if that differs."""
    same = sample.file == other.file
    return f"line {sample.line}" if same else f"{sample.file.name}:{sample.line}"


def read_steps(given: Sequence[Any]) -> list[Step]:
    """Return the steps of a list of names, or of mappings from one name to its settings.

    Raises:
        ConfigError: with everything that is wrong, each with the number of its step.
    """
    steps, wrong = [], []
    for number, entry in enumerate(given, 1):
        try:
            steps.append(_read(entry))
        except TriptychError as error:
            wrong.append(f"steps[{number}]: {error}")
    if not given:
        wrong.append(f"steps must name at least one step: {', '.join(plugins.names('steps'))}")
    if wrong:
        head = "several steps are wrong:"
        raise ConfigError(wrong[0] if len(wrong) == 1 else "\n  ".join([head, *wrong]))
    return steps


def _read(entry: Any) -> Step:
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ConfigError(f"a step is a name, or one name with its settings, not {entry!r:.60}")
    [(name, values)] = entry.items()
    module = plugins.load("steps", str(name))
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"the settings of '{name}' must be a mapping, not {values!r:.60}")
    settings = from_dict(module.Settings, values or {})
    if hasattr(module, "check"):
        module.check(settings)
    return Step(
        name=plugins.canonical("steps", str(name)),
        settings=settings,
        run=module.run,
        inputs=getattr(module, "inputs", _nothing),
    )


def _nothing(_settings: Any) -> Mapping[str, str]:
    return {}


def within(settings: Any, **ranges: tuple[float, float]) -> None:
    """Check that settings lie in their ranges, both ends included; None is not checked.

    Raises:
        ConfigError: naming the setting, its range and what was given.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            limit = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ConfigError(f"{name} must be {limit}, not {value:g}")

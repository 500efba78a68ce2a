"""The steps that a recipe lists, each read and checked before anything is trained."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from studio import plugins
from studio._convert import Wrong, convert
from studio.augment._guard import Guard, read_guard
from studio.augment._settings import read_settings
from studio.data.jsonl import SHOWN, together
from studio.errors import ConfigError, DataError, UnknownName
from studio.files import folder_hash, sha256_file
from studio.types import Image, Sample, Sound, Text

Takes = Literal["samples", "picture", "text", "features"]
_MEDIA = {"samples": "sound", "features": "sound", "picture": "picture", "text": "text"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step with its settings: what it ``takes``, how probable it is, and what it may not be done to."""

    name: str
    takes: Takes
    augment: Callable[..., Any]
    settings: Mapping[str, Any]
    p: float = 1.0
    guard: Guard | None = None

    @property
    def fingerprint(self) -> str:
        """All that decides what the step does: its settings, and the contents of what they name."""
        values = {name: _told(value) for name, value in self.settings.items()}
        for name in getattr(plugins.load("augment", self.name), "MODELS", ()):
            if values[name]:
                from studio.augment._model import weights

                values[name] = weights(values[name])
        return json.dumps([self.name, self.p, repr(self.guard), values], sort_keys=True)

    def allowed(self, sample: Sample) -> bool:
        """Return whether the step may be done to a row."""
        return self.guard is None or not self.guard.found(sample)

    def concerns(self, sample: Sample) -> bool:
        """Return whether a row has anything that the step changes."""
        kind = {"sound": Sound, "picture": Image, "text": Text}[_MEDIA[self.takes]]
        turns = [turn for turn in sample.turns if turn.role == "user"]
        return any(isinstance(part, kind) for turn in turns for part in turn.parts)


def read_steps(given: Any) -> tuple[Step, ...]:
    """Return the steps that a recipe's setting ``augment`` lists, in its order.

    Each entry is a step's name with its settings, or several: ``[{flip: {labels: ...}}, {blur: {}}]``.

    Raises:
        ConfigError: with everything that is wrong about them.
    """
    entries: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    wrong: list[str] = []
    found: list[Step] = []
    for entry in entries:
        if isinstance(entry, str):
            entry = {entry: None}
        if not isinstance(entry, Mapping):
            wrong.append(f"augment: a step is a name with its settings, not {entry!r}")
            continue
        for name, settings in entry.items():
            own: list[str] = []
            step = _step(str(name), settings, own)
            wrong += [f"augment.{name}: {sentence}" for sentence in own]
            found += [step] if step else []
    if wrong:
        raise ConfigError("; ".join(wrong))
    return tuple(found)


def check_steps(steps: Sequence[Step], samples: Sequence[Sample]) -> None:
    """Hold the steps against the rows they are for.

    Raises:
        ConfigError: if no row has anything that a step changes.
        DataError: naming the rows (the first ten) that hold a word which a step would make untrue.
    """
    for step in steps:
        if not any(step.concerns(sample) for sample in samples):
            raise ConfigError(f"augment.{step.name}: it changes a {_MEDIA[step.takes]}, and no row has one")
        if step.guard is None or step.guard.skip:
            continue
        wrong = [
            f"{sample.where}: it says '{word}', which {step.name} would make untrue; leave the step out, or "
            "set its 'otherwise' to 'skip'"
            for sample in samples
            if step.concerns(sample) and (word := step.guard.found(sample))
        ]
        if wrong:
            raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(samples)))


def fingerprint(steps: Sequence[Step]) -> str:
    """Return a SHA-256 over all that decides what the steps do, in their order."""
    return hashlib.sha256("\n".join(step.fingerprint for step in steps).encode()).hexdigest()


def _step(name: str, given: Any, wrong: list[str]) -> Step | None:
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        wrong.append(f"its settings must be a mapping, not {given!r}")
        return None
    try:
        module = plugins.load("augment", name)
    except UnknownName as error:
        wrong.append(str(error))
        return None
    takes: Any = next(iter(inspect.signature(module.augment).parameters))
    assert takes in get_args(Takes), f"{module.__name__} takes {takes}"
    rest = dict(given)
    p = 1.0
    try:
        p = convert(float, rest.pop("p", 1.0))
        if not 0 < p <= 1:
            raise Wrong(f"must be above 0 and at most 1, not {p:g}")
    except Wrong as error:
        wrong.append(f"'p' {error}")
    guard = _guard(module, takes, rest, wrong)
    settings = read_settings(module, rest, wrong)
    if not wrong and hasattr(module, "check"):
        try:
            module.check(**settings)
        except Wrong as error:
            wrong.append(str(error))
    return Step(name=name, takes=takes, augment=module.augment, settings=settings, p=p, guard=guard)


def _guard(module: Any, takes: str, rest: dict[str, Any], wrong: list[str]) -> Guard | None:
    """Take ``labels`` and ``otherwise`` out of a picture step's settings; some steps cannot go without."""
    if takes != "picture":
        return None
    otherwise = rest.pop("otherwise", "refuse")
    if "labels" not in rest:
        if getattr(module, "NEEDS_LABELS", False):
            wrong.append(
                "'labels' must be given: the words that would become untrue, as in 'none of [left, right]'"
            )
        return None
    try:
        return read_guard(rest.pop("labels"), otherwise)
    except Wrong as error:
        wrong.append(f"'labels' {error}")
        return None


def _told(value: Any) -> Any:
    """Return a setting as JSON holds it; a path stands for what lies there."""
    if isinstance(value, Path):
        return folder_hash(value) if value.is_dir() else sha256_file(value)
    return list(value) if isinstance(value, tuple) else value

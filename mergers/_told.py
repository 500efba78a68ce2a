"""What the models' own data says of their weights, for methods that ask for it by ``STATISTICS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mergers._inputs import Opened
from mergers._plan import Plan, Step
from mergers._settings import method
from mergers._spec import Model
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.statistics import Statistics

if TYPE_CHECKING:
    from torch import Tensor

Told = Callable[[str, int, int], "Sequence[Tensor] | None"]

#: What the plan says of a tensor that no data tells of.
UNTOLD = "no statistics: averaged"


def kind_of(name: str) -> str | None:
    """Return the kind of statistics that a method asks for, or None."""
    return getattr(method(name), "STATISTICS", None)


def statistics_file(model: Model, kind: str) -> Path | None:
    """Return a model's statistics file of a kind: the one given, or its place in the folder given."""
    given = model.statistics
    return given / f"{kind}.safetensors" if given is not None and given.is_dir() else given


def statistics_files(planned: Plan) -> list[Path]:
    """Return the statistics files that a merge uses."""
    kinds = sorted({kind for step in planned.steps if step.method and (kind := kind_of(step.method))})
    found = (statistics_file(model, kind) for model in planned.spec.models for kind in kinds)
    return [file for file in found if file is not None]


class Telling:
    """The statistics files of all models, opened for the methods of a merge that ask for them.

    Raises `MergeError` for a model without them, of another kind, or of other weights.
    """

    def __init__(
        self, models: Sequence[Model], opened: Opened, methods: Iterable[str], allow: Sequence[str]
    ) -> None:
        """Open the files by their headers."""
        self.files: dict[str, list[Statistics]] = {}
        for name in dict.fromkeys(methods):
            kind = kind_of(name)
            if kind is not None and kind not in self.files:
                if opened.adapters and opened.base is None:
                    raise MergeError(f"{name} needs to know the base of {models[0].path}; name it")
                own = zip(models, opened.models, strict=True)
                self.files[kind] = [_open(name, kind, m, found, allow) for m, found in own]

    def checked(self, step: Step, name: str) -> Step:
        """Return a step of the plan, marked if no data tells of its tensor; `MergeError` if misshapen."""
        kind = kind_of(step.method) if step.method else None
        if kind is None:
            return step
        for file in self.files[kind]:
            if name not in file:
                return replace(step, by=", ".join(word for word in (step.by, UNTOLD) if word))
            wanted = step.shape if kind == "fisher" else (step.shape[-1], step.shape[-1])
            if file.shape(name) != wanted:
                raise MergeError(f"{file.file}: '{name}' is {list(file.shape(name))}, not {list(wanted)}")
        return step

    def whole(self, step: Step, name: str) -> Sequence[Tensor] | None:
        """Return all that the data of all models tells of a tensor, or None."""
        told = self.told(step.method, range(len(next(iter(self.files.values()), []))))
        return told(name, 0, math.prod(step.shape)) if told is not None else None

    def told(self, chosen: str, numbers: Sequence[int]) -> Told | None:
        """Return what gives the statistics of some elements of a tensor; Gram matrices come whole.

        None for methods that do not ask.
        """
        kind = kind_of(chosen) if chosen else None
        if kind is None:
            return None
        files = [self.files[kind][n] for n in numbers]

        def told(name: str, begin: int, end: int) -> Sequence[Tensor] | None:
            if not all(name in file for file in files):
                return None
            if kind == "gram":
                return [file.read(name) for file in files]
            return [file.read_flat(name, begin, end) for file in files]

        return told


def _open(
    name: str, kind: str, model: Model, found: Adapter | Checkpoint, allow: Sequence[str]
) -> Statistics:
    file = statistics_file(model, kind)
    if file is None or not file.is_file():
        where = "" if file is None else f" at {file}"
        raise MergeError(
            f"{name} needs the {kind} statistics of {model.path}{where}: make them by `triptych run "
            f"statistics model={model.path} kind={kind}` and name the file as statistics of that model"
        )
    opened = Statistics(file)
    if opened.kind != kind:
        raise MergeError(f"{file} holds {opened.kind} statistics, {name} needs {kind}")
    weights = (found.checkpoint if isinstance(found, Adapter) else found).fingerprint()
    if opened.weights != weights and "statistics" not in allow:
        raise MergeError(
            f"{file} tells of other weights than those of {model.path} (allow: statistics overrides)"
        )
    return opened

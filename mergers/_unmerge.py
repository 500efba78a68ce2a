"""Taking one expert out of a merge again, by what its lock file says of how it was made.

Where the other inputs are still there they are merged again without it: exact for any method. Methods that
add deltas up, each times a number, keep those numbers, so that the others' part of the result does not
change. Where inputs are gone, such a merge minus the expert's own part is the same sum, up to the rounding
with which the merge was stored: theta - w tau (Ilharco et al. 2023, arXiv:2212.04089, section 4, negation).
With rules, tables or gradients it is done tensor by tensor, each with the numbers that it was merged with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mergers import _engine, _lock
from mergers._groups import selector
from mergers._report import MergeReport
from mergers._settings import is_per_model, method, resolve
from mergers._spec import MergeSpec, Model
from mergers._unmerge_rules import Ruled, is_ruled
from studio.adapters import is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.log import Log, QuietLog

#: The plain sum of weighted deltas, and the plain average of models where there is no base.
SUM, AVERAGE = "task_arithmetic", "linear"


def unmerge(
    expert: str | Path,
    merged: str | Path,
    out: str | Path,
    *,
    allow: Iterable[str] = (),
    log: Log | None = None,
    **more: Any,
) -> MergeReport:
    """Write what the merge in ``merged`` is without the input ``expert``, and return the report.

    ``expert`` is the input's path, or the end of it. ``more`` are keys of a merge file: threads, shard_size,
    max_ram. ``report.details["how"]`` says whether the rest was "merged again" or the expert "subtracted".

    Raises `CheckpointError` without a lock file; `MergeError` where the expert is no input, is the only one,
    or can be taken out in neither way.
    """
    log = log or QuietLog()
    made = _Made.read(Path(merged))
    number = made.find(Path(expert))
    if len(made.spec.models) == 1:
        raise MergeError(f"{expert} is all that {merged} was merged from; without it there is the base")
    gone = made.gone(number)
    spec = made.without(number) if not gone else made.minus(number, gone)
    given = {key: value for key, value in more.items() if value is not None}
    mapping = {**spec.to_mapping(), **given, "allow": [*spec.allow, *allow]}
    how = "subtracted" if gone else "merged again"
    log.say(f"{made.spec.models[number].path}: {how}" + (f", for {gone}" if gone else " without it"))
    report = _engine.merge(MergeSpec.from_mapping(mapping, where="unmerge"), out, log)
    if gone:
        log.say(f"  note: the result carries the rounding and the cut with which {merged} was stored")
    return replace(report, details={**report.details, "how": how})


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A finished merge: its folder, what was asked for, and its lock file."""

    folder: Path
    spec: MergeSpec
    lock: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> _Made:
        lock = _lock.read_lock(folder)
        spec = MergeSpec.from_mapping(_lock.recipe(folder)[0], where=f"{folder / _lock.LOCK}")
        if spec.recipe is not None:
            raise MergeError(
                f"{folder} was merged by a mergekit file; take the expert out of that and merge again"
            )
        return cls(folder=folder, spec=spec, lock=lock)

    @property
    def is_model(self) -> bool:
        return bool(self.lock["output"]["kind"] == "model")

    @cached_property
    def ruled(self) -> Ruled | None:
        """What was done to each tensor, where that differs; None where all were merged alike."""
        if not is_ruled(self.spec):
            return None
        base = self.lock["base"]
        if base and not _is(base):
            texts = [text for rule in self.spec.rules for text in rule.match]
            pattern = next((text for text in texts if selector(text).is_pattern), None)
            if pattern is not None and not self.is_model:
                raise MergeError(
                    f"{base['path']} is gone or has changed, by whose names the rule for {pattern} may pick"
                )
            base = None
        return Ruled.read(self.spec, self.folder, Path(base["path"]) if base else None)

    def find(self, expert: Path) -> int:
        """Return the number of the input that is meant."""
        paths, parts = [model.path for model in self.spec.models], expert.parts
        found = [i for i, path in enumerate(paths) if path.resolve() == expert.resolve()]
        found = found or [i for i, path in enumerate(paths) if parts and path.parts[-len(parts) :] == parts]
        if not found and expert.is_dir():
            print_ = Checkpoint(expert).fingerprint()
            found = [i for i, item in enumerate(self.lock["inputs"]) if item["fingerprint"] == print_]
        if len(found) == 1:
            return found[0]
        inputs = ", ".join(map(str, paths))
        problem = f"fits {len(found)} of the inputs" if found else "is none of the inputs"
        raise MergeError(f"{expert} {problem} of {self.folder}: {inputs}")

    def gone(self, number: int) -> str:
        """Return why the rest cannot be merged again, or the empty string."""
        needed = [item for i, item in enumerate(self.lock["inputs"]) if i != number]
        base = self.lock["base"]
        for item in [*needed, *([base] if base else [])]:
            spare = item is base and not self.is_model and not any(_needs_base(i["path"]) for i in needed)
            if not spare and not _is(item):
                return f"{item['path']} is gone or has changed"
        return ""

    def without(self, number: int) -> MergeSpec:
        """Return the merge of the rest."""
        spec, weights = self.spec, self.coefficients()
        kind: Any = self.lock["output"]["kind"]
        if self.ruled is not None:
            spec = replace(self.ruled.without(number, self.is_average), output=kind)
        if spec.base and not spec.base.is_dir():  # these adapters do without
            spec = replace(spec, base=None)
        if self.ruled is not None:
            return spec
        rest = [model for i, model in enumerate(spec.models) if i != number]
        if weights is None:
            chosen = method(spec.method)
            lists = {k for k, v in spec.settings.items() if isinstance(v, list) and is_per_model(chosen, k)}
            settings = {
                key: [v for i, v in enumerate(value) if i != number] if key in lists else value
                for key, value in spec.settings.items()
            }
            return replace(spec, models=tuple(rest), settings=settings, output=kind)
        kept = [weight for i, weight in enumerate(weights) if i != number]
        models = tuple(replace(m, settings={"weight": w}) for m, w in zip(rest, kept, strict=True))
        by = AVERAGE if self.is_average else SUM
        return replace(spec, method=by, models=models, settings={}, output=kind)

    def minus(self, number: int, gone: str) -> MergeSpec:
        """Return the merge of the result and the expert that takes it out."""
        found = self._minus(number, gone)
        return self.ruled.minus(found, number, self.is_average, gone) if self.ruled else found

    def _minus(self, number: int, gone: str) -> MergeSpec:
        spec, weights = self.spec, self.coefficients()
        expert, weight = spec.models[number], weights[number] if weights else 0.0
        if weights is None and self.ruled is None:
            raise MergeError(
                f"{gone}, and {spec.method} does not add up: what an expert left in it cannot be told apart"
            )
        if not _is(self.lock["inputs"][number]):
            raise MergeError(f"{gone}, and so is {expert.path}: there is nothing to subtract")
        if Checkpoint(self.folder).fingerprint() != self.lock["output"]["fingerprint"]:
            raise MergeError(f"{gone}, and {self.folder} is not what the merge wrote")
        if self.is_average:
            if abs(1 - weight) < 1e-6:
                raise MergeError(f"{gone}, and {expert.path} is all that its weights left in {self.folder}")
            return self._of(AVERAGE, {self.folder: 1 / (1 - weight), expert.path: -weight / (1 - weight)})
        parts = {self.folder: 1.0, expert.path: -weight}
        base = self.lock["base"]
        if not base or _is(base):
            return self._of(SUM, parts, Path(base["path"]) if base else None)
        alone = is_adapter(expert.path) and not _needs_base(expert.path)
        if not alone:
            raise MergeError(f"{gone}, and what {expert.path} changes is told by the base alone")
        if not self.is_model:
            return self._of(SUM, parts)
        # The delta of plain factors is the same on any model: it is taken from the merge itself.
        found = self._of(SUM, {expert.path: -weight}, self.folder)
        return replace(found, allow=(*found.allow, "base"))

    def coefficients(self) -> list[float] | None:
        """Return what each delta was multiplied by, if that is all that the method did."""
        chosen, models = method(self.spec.method), [model.settings for model in self.spec.models]
        if not hasattr(chosen, "coefficients") or self.ruled is not None:
            return None
        found = chosen.coefficients(len(models), **resolve(chosen, self.spec.settings, models))
        return [float(value) for value in found]

    @property
    def is_average(self) -> bool:
        """Whether full models were averaged without a base; the rest is then an average again."""
        return self.is_model and self.lock["base"] is None

    def _of(self, name: str, parts: Mapping[Path, float], base: Path | None = None) -> MergeSpec:
        models = tuple(Model(path=path, settings={"weight": weight}) for path, weight in parts.items())
        kind: Any = self.lock["output"]["kind"]
        plain = replace(self.spec, rules=(), weights_by_layer={})
        return replace(plain, method=name, models=models, settings={}, base=base, output=kind)


def _is(item: Mapping[str, str]) -> bool:
    """Return whether an input is still what the lock file says."""
    try:
        return Checkpoint(item["path"]).fingerprint() == item["fingerprint"]
    except CheckpointError:
        return False


def _needs_base(adapter: str | Path) -> bool:
    found = read_adapter(adapter)
    return bool(found.values) or any(map(found.is_dora, found.names()))

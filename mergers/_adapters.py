"""Merging adapters into an adapter: every module of any of them, as true deltas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergers import _lock
from mergers._assign import Choice, assign, survey_key
from mergers._groups import Groups, Subject, group_of, subjects_of, towers_of
from mergers._inputs import Opened
from mergers._modules import Inputs, merge_dense, merge_module, merge_value, with_magnitude
from mergers._place import Look, Place
from mergers._plan import Plan, Step
from mergers._report import MergeReport, ModuleReport
from mergers._settings import method
from mergers._spec import MergeSpec
from mergers._threads import in_order, workers
from mergers._told import Telling
from studio.adapter_files import fill_adapter
from studio.adapters import Factors
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.later import torch
from studio.log import Log
from studio.module_names import tensor_names, weight_names

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = "stored whole"
SAMPLE = 4096


def plan_adapters(spec: MergeSpec, opened: Opened) -> Plan:
    """Return the plan of an adapter merge; `MergeError` for adapters that do not fit together."""
    adapters, base = opened.adapters, opened.base
    steps: list[Step] = []
    stored: dict[str, str] = {}
    for name in dict.fromkeys(name for a in adapters for name in a.names()):
        owners = [i for i, a in enumerate(adapters) if name in a.names()]
        first = adapters[owners[0]]
        for i in owners[1:]:
            if adapters[i].shape(name) != first.shape(name) or adapters[i].kind(name) != first.kind(name):
                raise MergeError(
                    f"'{name}' is {list(adapters[i].shape(name))} in {adapters[i].folder} but "
                    f"{list(first.shape(name))} in {first.folder}; adapters of different models do not add up"
                )
        why = "" if len(owners) == len(adapters) else "a zero delta in the others"
        steps.append(
            Step(
                name=name,
                shape=first.shape(name),
                action="merge",
                sources=tuple(owners),
                why=why,
            )
        )
    needs = next((a for a in adapters if a.values or any(a.is_dora(n) for n in a.names())), None)
    if needs is not None and base is None:
        raise MergeError(
            f"{needs.folder} stores whole tensors or DoRA, whose deltas depend on the base; name it"
        )
    if base is not None:
        modules = {step.name: step.shape for step in steps}
        stored = weight_names(modules, base)  # refuses modules that the base does not have
        for name in _values(opened):
            owners = [i for i, a in enumerate(adapters) if name in a.values]
            shape = adapters[owners[0]].value_shape(name) if owners else ()
            if name.rpartition(".")[0] not in modules:
                steps.append(
                    Step(
                        name=name,
                        shape=shape,
                        action="merge" if owners else "copy",
                        sources=tuple(owners),
                        why=WHOLE,
                    )
                )
        stored |= _values(opened)
    steps = _assigned(spec, opened, steps, stored)
    if all(step.action != "merge" for step in steps if step.why != WHOLE):
        raise MergeError("the rules freeze every module of these adapters; nothing is left to merge")
    telling = Telling(spec.models, opened, (step.method for step in steps if step.method), spec.allow)
    steps = [telling.checked(step, stored.get(step.name, step.name)) for step in steps]
    return Plan(spec=spec, kind="adapter", steps=tuple(steps), warnings=opened.warnings)


def _assigned(
    spec: MergeSpec, opened: Opened, steps: Sequence[Step], stored: Mapping[str, str]
) -> list[Step]:
    """Return the steps with methods and settings; selectors may also name what only the base has."""
    towers = towers_of(opened.base.config if opened.base else {}, opened.adapters[0].family)
    names = [
        [
            f"{step.name}.weight" if step.why != WHOLE else step.name,
            step.name,
            stored.get(step.name, step.name),
        ]
        for step in steps
    ]
    subjects = subjects_of(names, towers)
    around = [
        Subject(names=(n,), group=group_of(n, towers)) for n in (opened.base.names() if opened.base else ())
    ]
    where = str(opened.base.folder) if opened.base else "these adapters"
    choices = assign(spec, Groups(subjects=[*subjects.values(), *around], where=where), subjects)
    return [_chosen(step, choices[own[0]]) for step, own in zip(steps, names, strict=True)]


def _chosen(step: Step, choice: Choice) -> Step:
    if choice.frozen and step.why != WHOLE:
        return replace(step, action="drop", group=choice.group, by=choice.by)
    if choice.frozen or step.action != "merge":
        return replace(step, action="copy", sources=(), group=choice.group, by=choice.by)
    return replace(step, group=choice.group, method=choice.method, settings=choice.settings, by=choice.by)


def _values(opened: Opened) -> dict[str, str]:
    """Return, for tensors that are stored whole, the model's name -> the base's.

    PEFT keeps whole modules: where an adapter trains a norm's bias alone, the norm's weight comes along.
    """
    assert opened.base is not None
    wanted = {name: a.value_shape(name) for a in opened.adapters for name in a.values}
    places = tensor_names(wanted, opened.base)
    adapted = {name for a in opened.adapters for name in a.names()}
    for name, tensor in list(places.items()):
        module, owner = name.rpartition(".")[0], tensor.rpartition(".")[0]
        for other in opened.base.names() if module not in adapted else ():
            if other.rpartition(".")[0] == owner:
                places.setdefault(f"{module}.{other.rpartition('.')[2]}", other)
    return places


@dataclass(frozen=True, kw_only=True)
class Made:
    """A merged adapter in memory: factors by module, tensors stored whole, and what was said of each."""

    factors: dict[str, Factors]
    values: dict[str, Tensor]
    reports: tuple[ModuleReport, ...]
    warnings: tuple[str, ...]


def merged_adapter(planned: Plan, opened: Opened, log: Log) -> Made:
    """Return the merged adapter without writing it."""
    spec, base = planned.spec, opened.base
    inputs, modules, places, telling = _set_out(planned, opened)
    log.stage(f"merge {spec.method}", len(planned.steps), "tensors")

    def one(step: Step) -> tuple[str, Factors, ModuleReport]:
        own, place = replace(inputs, method=method(step.method)), places[step.name]
        place = replace(place, statistics=telling.whole(step, place.tensor))
        return step.name, *merge_module(own, step.name, step.settings, place)

    factors: dict[str, Factors] = {}
    reports: list[ModuleReport] = []
    for name, made, report in in_order(one, modules, workers(spec.threads)):
        factors[name] = made
        reports.append(report)
        log.advance(1)
    if any(f.magnitude is not None for f in factors.values()):
        factors = {n: with_magnitude(f, inputs.weight_of(n)) for n, f in factors.items()}
    warnings: tuple[str, ...] = ()
    if any(f.bias is not None for f in factors.values()):
        factors = {n: _with_bias(f) for n, f in factors.items()}
        warnings = ("the result changes biases: PEFT runs it, but merges it only where all modules have one",)
    values: dict[str, Tensor] = {}
    wholes = _values(opened) if base is not None else {}
    for step in planned.steps:
        if step.why == WHOLE:
            ground = _base_tensor(base, wholes[step.name])
            place = replace(inputs.place, tensor=wholes[step.name])
            if step.action == "copy":
                values[step.name] = ground.to(torch.float32)
                log.advance(1)
                continue
            place = replace(place, statistics=telling.whole(step, place.tensor))
            own = replace(inputs, method=method(step.method))
            merged, report = merge_value(own, step.name, ground, step.settings, place)
            values[step.name] = merged.to(torch.float32)
            reports.append(report)
            log.advance(1)
    return Made(factors=factors, values=values, reports=tuple(reports), warnings=warnings)


def merged_dense(planned: Plan, opened: Opened) -> dict[str, Tensor]:
    """Return what a merge of plain LoRAs adds to each module's weight."""
    inputs, modules, places, telling = _set_out(planned, opened)

    def one(step: Step) -> tuple[str, Tensor]:
        own, place = replace(inputs, method=method(step.method)), places[step.name]
        place = replace(place, statistics=telling.whole(step, place.tensor))
        return step.name, merge_dense(own, step.name, step.settings, place)

    return dict(in_order(one, modules, workers(planned.spec.threads)))


def _set_out(planned: Plan, opened: Opened) -> tuple[Inputs, list[Step], dict[str, Place], Telling]:
    """Return the inputs of an adapter merge, the modules to merge, their places, and what data tells."""
    spec, base = planned.spec, opened.base
    modules = [step for step in planned.steps if step.why != WHOLE and step.action == "merge"]
    names = weight_names({s.name: s.shape for s in modules}, base) if base is not None else {}
    inputs = Inputs(
        adapters=opened.adapters,
        method=method(spec.method),
        rank=spec.rank,
        names=names,
        place=Place(seed=spec.seed, keys=_lock.model_keys(opened)),
        weight_of=lambda name: _base_tensor(base, names[name]),
        bias_of=lambda name: _base_tensor(base, names[name].removesuffix("weight") + "bias"),
    )
    telling = Telling(spec.models, opened, (s.method for s in planned.steps if s.method), spec.allow)
    return inputs, modules, _places(inputs, modules), telling


def merge_adapters(planned: Plan, opened: Opened, folder: Path, log: Log) -> MergeReport:
    """Write the merged adapter into an existing folder."""
    spec, adapters, base = planned.spec, opened.adapters, opened.base
    made = merged_adapter(planned, opened, log)
    first = adapters[0]
    fingerprint = next((a.base_fingerprint for a in adapters if a.base_fingerprint), "")
    fill_adapter(
        folder,
        made.factors,
        base=str(spec.base or first.base),
        values=made.values,
        dtype=torch.float32,
        base_fingerprint=fingerprint or (base.fingerprint() if base else ""),
        family=next((a.family for a in adapters if a.family), ""),
        note={"made_by": "merge", "method": spec.method},
        tied={copy: name for a in adapters for copy, name in a.tied.items()},
    )
    return MergeReport(
        out=folder,
        kind="adapter",
        method=spec.method,
        merged=planned.counts["merge"],
        copied=planned.counts["copy"],
        dropped=tuple(step.name for step in planned.steps if step.action == "drop"),
        modules=made.reports,
        warnings=made.warnings,
    )


def _places(inputs: Inputs, modules: list[Step]) -> dict[str, Place]:
    """Return each module's place; with the scope of a whole model, what the method finds in all of them."""
    scopes: dict[str, list[Step]] = {}
    for step in modules:
        scopes.setdefault(survey_key(step) if step.settings.get("scope") == "model" else "", []).append(step)
    places = {}
    for key, own in scopes.items():
        starts = accumulate((math.prod(step.shape) for step in own[:-1]), initial=0)
        offsets = dict(zip((step.name for step in own), starts, strict=True))
        found = _survey(inputs, own, offsets) if key else None
        for name, offset in offsets.items():
            tensor = inputs.tensor_name(name)
            places[name] = replace(inputs.place, tensor=tensor, offset=offset, survey=found)
    return places


def _survey(inputs: Inputs, modules: Sequence[Step], offsets: Mapping[str, int]) -> Any:
    """Return what the modules' method finds in all of them together."""
    total = sum(math.prod(step.shape) for step in modules)

    def pieces() -> Iterator[tuple[Place, list[Tensor]]]:
        for step in modules:
            place = replace(inputs.place, tensor=inputs.tensor_name(step.name), offset=offsets[step.name])
            yield place, [delta.reshape(-1).clone() for delta in inputs.dense(step.name)]

    def sample() -> list[Tensor]:
        parts = [[p[:: max(1, total // (SAMPLE * len(modules)))] for p in parts] for _, parts in pieces()]
        return [torch.cat(same) for same in zip(*parts, strict=True)]

    look = Look(count=len(inputs.adapters), numel=total, pieces=pieces, values=pieces, sample=sample)
    return method(modules[0].method).survey(look, **modules[0].settings)


def _with_bias(factors: Factors) -> Factors:
    """Return the factors with a bias of zeros where there was none: PEFT asks for all or none."""
    if factors.bias is not None:
        return factors
    return replace(factors, bias=torch.zeros(factors.shape[factors.output_axis]))


def _base_tensor(base: Checkpoint | None, name: str) -> Tensor:
    assert base is not None
    return base.read(name)

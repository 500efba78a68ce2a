"""Plan and run a merge: checks first, then the work tensor by tensor, then one rename."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mergers import _lock, _models
from mergers._adapters import Inputs, merge_module, merge_value
from mergers._inputs import Opened, check_output, open_inputs
from mergers._place import Place
from mergers._plan import Plan, Step
from mergers._report import MergeReport, ModuleReport
from mergers._settings import method, resolve
from mergers._spec import MergeSpec
from studio.adapter_files import fill_adapter
from studio.adapters import Adapter, Factors
from studio.errors import MergeError
from studio.files import atomic_folder
from studio.log import Log, QuietLog
from studio.module_names import weight_names

T = TypeVar("T")


def plan(spec: MergeSpec) -> Plan:
    """Return what a merge would do; reads headers only and writes nothing.

    Raises subclasses of `TriptychError` for everything that would stop the merge before it starts.
    """
    return _prepare(spec)[0]


def merge(spec: MergeSpec, out: str | Path, log: Log | None = None) -> MergeReport:
    """Merge as ``spec`` says into the folder ``out``, whole or not at all, and return the report.

    Raises subclasses of `TriptychError`; nothing is left behind then.
    """
    began = time.monotonic()
    log, out = log or QuietLog(), Path(out)
    check_output(spec, out)
    planned, opened = _prepare(spec)
    with atomic_folder(out) as folder, one_torch_thread():
        if planned.kind == "adapter":
            report = _merge_adapters(planned, opened, folder, log)
        else:
            report = _models.merge_models(planned, opened, folder, log, workers(spec))
        report = replace(report, out=out, warnings=(*planned.warnings, *report.warnings))
        report = _lock.write_lock(folder, planned, opened, report)
    report = replace(report, seconds=time.monotonic() - began)
    log.say(report.text())
    return report


def _prepare(spec: MergeSpec) -> tuple[Plan, Opened]:
    chosen = method(spec.method)
    settings = resolve(chosen, spec.settings, [m.settings for m in spec.models])
    opened = open_inputs(spec)
    only_adapters = len(opened.adapters) == len(opened.models)
    kind = spec.output if spec.output != "auto" else ("adapter" if only_adapters else "model")
    if kind == "model":
        return _models.plan_models(spec, opened, settings), opened
    if not only_adapters:
        full = next(m for m in opened.models if not isinstance(m, Adapter))
        raise MergeError(f"{full.folder} is a full model; output: adapter needs adapters only")
    return _plan_adapters(spec, opened, settings), opened


def _plan_adapters(spec: MergeSpec, opened: Opened, settings: dict[str, Any]) -> Plan:
    adapters, base = opened.adapters, opened.base
    steps: list[Step] = []
    for name in dict.fromkeys(name for a in adapters for name in a.names()):
        owners = [i for i, a in enumerate(adapters) if name in a.names()]
        first = adapters[owners[0]]
        for i in owners[1:]:
            if adapters[i].shape(name) != first.shape(name) or adapters[i].kind(name) != first.kind(name):
                raise MergeError(
                    f"'{name}' is {list(adapters[i].shape(name))} in {adapters[i].folder} but "
                    f"{list(first.shape(name))} in {first.folder}; adapters of different models do not add up"
                )
        steps.append(Step(
            name=name, shape=first.shape(name), action="merge", sources=tuple(owners), settings=settings,
            why="" if len(owners) == len(adapters) else "a zero delta in the others",
        ))  # fmt: skip
    values = list(dict.fromkeys(name for a in adapters for name in a.values))
    needs = next((a for a in adapters if a.values or any(a.is_dora(n) for n in a.names())), None)
    if needs is not None and base is None:
        raise MergeError(
            f"{needs.folder} stores whole tensors or DoRA, whose deltas depend on the base; name it"
        )
    if base is not None:
        weight_names({s.name: s.shape for s in steps}, base)  # refuses modules that the base does not have
        places = _models.value_names(adapters, base)
        for name in values:
            owners = [i for i, a in enumerate(adapters) if name in a.values]
            steps.append(Step(
                name=name, shape=base.shape(places[name]), action="merge", sources=tuple(owners),
                settings=settings, why="stored whole",
            ))  # fmt: skip
    return Plan(spec=spec, kind="adapter", steps=tuple(steps), warnings=opened.warnings)


def _merge_adapters(planned: Plan, opened: Opened, folder: Path, log: Log) -> MergeReport:
    spec, adapters, base = planned.spec, opened.adapters, opened.base
    whole = {name for a in adapters for name in a.values}
    modules = [step for step in planned.steps if step.name not in whole]
    names = weight_names({s.name: s.shape for s in modules}, base) if base is not None else {}

    def weight_of(name: str) -> Tensor:
        assert base is not None
        return base.read(names[name])

    inputs = Inputs(
        adapters=adapters, method=method(spec.method), rank=spec.rank, weight_of=weight_of, names=names,
        place=Place(seed=spec.seed, keys=_lock.model_keys(opened)),
    )  # fmt: skip
    log.stage(f"merge {spec.method}", len(planned.steps), "tensors")

    def one(step: Step) -> tuple[str, Factors, ModuleReport]:
        return step.name, *merge_module(inputs, step.name, step.settings)

    factors: dict[str, Factors] = {}
    reports: list[ModuleReport] = []
    for name, made, report in in_order(one, modules, workers(spec)):
        factors[name] = made
        reports.append(report)
        log.advance(1)
    if any(f.magnitude is not None for f in factors.values()):
        factors = {n: _with_magnitude(f, weight_of(n)) for n, f in factors.items()}
    values: dict[str, Tensor] = {}
    if whole and base is not None:
        places = _models.value_names(adapters, base)
        for step in planned.steps:
            if step.name in whole:
                ground = base.read(places[step.name])
                merged, report = merge_value(inputs, step.name, ground, step.settings)
                values[step.name] = merged
                reports.append(report)
                log.advance(1)
    first = adapters[0]
    fill_adapter(
        folder, factors, base=str(spec.base or first.base), values=values, dtype=torch.float32,
        base_fingerprint=next((a.base_fingerprint for a in adapters if a.base_fingerprint), "")
        or (base.fingerprint() if base else ""),
        family=next((a.family for a in adapters if a.family), ""),
        note={"made_by": "merge", "method": spec.method},
    )  # fmt: skip
    return MergeReport(
        out=folder, kind="adapter", method=spec.method, merged=len(planned.steps), copied=0,
        modules=tuple(reports),
    )  # fmt: skip


def _with_magnitude(factors: Factors, weight: Tensor) -> Factors:
    if factors.magnitude is not None:
        return factors
    adapted = weight.float() + (factors.b @ factors.a).reshape(factors.shape)
    length = adapted.transpose(0, factors.output_axis).flatten(1).norm(dim=1)
    return replace(factors, magnitude=length)


def workers(spec: MergeSpec) -> int:
    """Return how many tensors are worked on at a time."""
    return spec.threads or min(os.cpu_count() or 1, 8)


def in_order(work: Callable[[Any], T], items: Iterable[Any], threads: int) -> Iterator[T]:
    """Yield ``work(item)`` for all items in their order, with a few of them worked on at a time."""
    waiting = list(items)
    if threads <= 1:
        yield from map(work, waiting)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = []
        try:
            for item in waiting:
                running.append(pool.submit(work, item))
                if len(running) > 2 * threads:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run every tensor operation on the thread that calls it: faster here, and the same anywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)

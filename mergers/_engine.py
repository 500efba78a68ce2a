"""Plan and run a merge: checks first, then the work tensor by tensor, then one rename."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mergers import _lock, _models
from mergers._adapters import merge_adapters, plan_adapters
from mergers._inputs import Opened, check_output, open_inputs
from mergers._plan import Plan
from mergers._report import MergeReport
from mergers._settings import method, resolve
from mergers._spec import MergeSpec
from mergers._threads import one_torch_thread, workers
from studio.adapters import Adapter
from studio.errors import MergeError
from studio.files import atomic_folder
from studio.log import Log, QuietLog


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
            report = merge_adapters(planned, opened, folder, log)
        else:
            report = _models.merge_models(planned, opened, folder, log, workers(spec.threads))
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
    return plan_adapters(spec, opened, settings), opened

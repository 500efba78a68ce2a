"""Plan and run a merge: checks first, then the work tensor by tensor, then one rename."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mergers import _lock, _models
from mergers._adapters import merge_adapters, merged_adapter, merged_dense, plan_adapters
from mergers._assign import check_settings
from mergers._card import card
from mergers._checks import check_norm
from mergers._inputs import Opened, check_output, open_inputs
from mergers._meeting import Host
from mergers._plan import Plan
from mergers._ranks import ALONE, Ranks
from mergers._report import MergeReport
from mergers._resume import merge_key, workspace
from mergers._selftest import selftest
from mergers._settings import needs_torch
from mergers._spec import MergeSpec
from mergers._threads import keep_freed_memory, one_torch_thread
from studio.adapter_format import Adapter, Factors
from studio.errors import MergeError
from studio.files import atomic_folder
from studio.log import Log, QuietLog

if TYPE_CHECKING:
    from torch import Tensor


def plan(spec: MergeSpec) -> Plan:
    """Return what a merge would do; reads headers only and writes nothing.

    Raises subclasses of `TriptychError` for everything that would stop the merge before it starts.
    """
    return prepare(spec)[0]


def merge(
    spec: MergeSpec,
    out: str | Path,
    log: Log | None = None,
    ranks: Ranks = ALONE,
    host: Host | None = None,
) -> MergeReport:
    """Merge as ``spec`` says into the folder ``out``, whole or not at all, and return the report.

    ``host`` leads the other processes, where there are any. Raises subclasses of `TriptychError`; nothing is
    left behind then.
    """
    began = time.monotonic()
    log, out = log or QuietLog(), Path(out)
    check_output(spec, out)
    planned, opened = prepare(spec)
    if planned.kind == "adapter":
        if ranks != ALONE:
            raise MergeError(
                "adapters are merged by one process on the processor; leave --nproc, --device and the "
                "launcher out, or merge them into a full model (output: model)"
            )
        with atomic_folder(out) as folder, one_torch_thread():
            report = merge_adapters(planned, opened, folder, log)
            if spec.selftest:
                log.say(
                    "self-test: only full models are loaded; an adapter's keys are checked wherever it is"
                )
            report = _finish(planned, opened, folder, replace(report, out=out))
    else:
        key = merge_key(planned, opened, ranks.device)
        with workspace(out, key) as (folder, journal), threads_for(planned, opened, ranks):
            report = _models.merge_models(planned, opened, folder, log, journal, ranks, host)
            if spec.selftest:
                log.say(selftest(folder, Path(planned.donor), str(out)))
            report = _finish(planned, opened, folder, replace(report, out=out))
    report = replace(report, seconds=time.monotonic() - began)
    log.say(report.text())
    return report


def merged_factors(spec: MergeSpec, log: Log | None = None) -> Mapping[str, Factors]:
    """Return the factors of a merge of adapters by module, without writing anything.

    Raises subclasses of `TriptychError`, among them `MergeError` for what only a folder can hold: modules
    stored whole, DoRA's lengths, biases.
    """
    planned, opened = prepare(replace(spec, output="adapter"))
    with one_torch_thread():
        made = merged_adapter(planned, opened, log or QuietLog())
    odd = next((n for n, f in made.factors.items() if f.bias is not None or f.magnitude is not None), None)
    if made.values or odd:
        name = odd or next(iter(made.values))
        raise MergeError(f"'{name}' has more than factors; merge into a folder instead")
    return made.factors


def merged_deltas(spec: MergeSpec) -> dict[str, Tensor]:
    """Return what a merge of adapters adds to each module's weight, without factorising or writing anything.

    The same as the adapter that the merge writes, but for rounding. Raises subclasses of `TriptychError`,
    among them `MergeError` for an adapter that is more than factors of linear modules.
    """
    from studio.mixed import refusal  # which imports torch

    planned, opened = prepare(replace(spec, output="adapter"))
    for adapter in opened.adapters:
        if why := refusal(adapter):
            raise MergeError(f"{adapter.folder} is more than factors of linear modules: {why}")
    with one_torch_thread():
        return merged_dense(planned, opened)


def threads_for(planned: Plan, opened: Opened, ranks: Ranks) -> AbstractContextManager[None]:
    """Return what torch needs around the work, and nothing where NumPy can do it: torch takes a while."""
    if ranks.device != "cpu" or needs_torch(planned, bool(opened.adapters)):
        return one_torch_thread()
    keep_freed_memory()
    return nullcontext()


def _finish(planned: Plan, opened: Opened, folder: Path, report: MergeReport) -> MergeReport:
    """Check the result as a whole, and write its card and its lock file."""
    report = replace(report, warnings=(*planned.warnings, *report.warnings))
    if opened.base is not None or planned.kind == "adapter":
        check_norm(planned.spec, report.norm, report.longest)
    base = opened.base.folder if opened.base is not None else planned.donor
    (folder / "README.md").write_text(card(planned, report, str(base)), encoding="utf-8")
    return _lock.write_lock(folder, planned, opened, report)


def verify(folder: str | Path) -> list[str]:
    """Return what no longer agrees with a merge's lock file: the output, and inputs that are still there.

    Raises `CheckpointError` when the folder has no readable lock file.
    """
    return _lock.differences(Path(folder))


def replay(folder: str | Path, out: str | Path, log: Log | None = None) -> MergeReport:
    """Make a merge again from its lock file; `MergeError` unless the result has the same fingerprint.

    The new folder is kept in either case, so that the two can be compared.
    """
    recipe, fingerprint = _lock.recipe(Path(folder))
    report = merge(MergeSpec.from_mapping(recipe, where=f"{folder}/{_lock.LOCK}"), out, log)
    if report.fingerprint != fingerprint:
        raise MergeError(
            f"{out} differs from {folder}: {report.fingerprint[:12]} is not {fingerprint[:12]}; "
            "verify tells whether an input has changed"
        )
    return report


def prepare(spec: MergeSpec) -> tuple[Plan, Opened]:
    """Return the plan and what it was made from; raises as `plan` does."""
    check_settings(spec)
    opened = open_inputs(spec)
    only_adapters = len(opened.adapters) == len(opened.models)
    kind = spec.output if spec.output != "auto" else ("adapter" if only_adapters else "model")
    if kind == "model":
        return _models.plan_models(spec, opened), opened
    if not only_adapters:
        full = next(m for m in opened.models if not isinstance(m, Adapter))
        raise MergeError(f"{full.folder} is a full model; output: adapter needs adapters only")
    return plan_adapters(spec, opened), opened

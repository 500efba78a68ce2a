"""Merging into a full model: every tensor of the base is merged, copied or named as dropped.

The plan comes from the tensors on disk, never from a template of the architecture. Output names, shapes and
types are the base's; every file that is no weight (processor, tokenizer, templates ...) comes along.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergers import _lock
from mergers._assign import Choice, assign, survey_key
from mergers._budget import threads_within
from mergers._checks import check_models
from mergers._groups import Groups, Subject, subjects_of, towers_of
from mergers._inputs import Opened
from mergers._meeting import Guest, Host
from mergers._parts import Part, adjust_companions, parts_of
from mergers._place import Place
from mergers._plan import Plan, Step
from mergers._ranks import ALONE, Ranks, shares
from mergers._report import MergeReport
from mergers._resume import Journal, finished_by, merge_key, others
from mergers._settings import method
from mergers._sources import FLOATS, Input, tied_name
from mergers._spec import MergeSpec
from mergers._stream import Done, Work, merge_tensor, survey_model
from mergers._threads import in_order
from mergers._tied import check_tied
from mergers._told import Telling
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.log import Log
from studio.shards import ShardWriter
from studio.tensorfile import BITS

#: Files that describe the donor and not the result.
LEFT = ("README.md", "merge.lock.json", "triptych.json", "run.json")


def donor_of(spec: MergeSpec, opened: Opened) -> Checkpoint:
    """Return the checkpoint that names, shapes, types and files are taken from."""
    if opened.base is not None:
        return opened.base
    first = next((m for m in opened.models if isinstance(m, Checkpoint)), None)
    if opened.adapters or first is None:
        raise MergeError(f"a full model needs the base that {spec.models[0].path} adapts; name it")
    for name in (spec.method, *(rule.method for rule in spec.rules if rule.method)):
        if getattr(method(name), "NEEDS_BASE", True):
            raise MergeError(f"{name} works on differences from a base model; name the base")
    frozen = next((rule for rule in spec.rules if rule.freeze), None)
    if frozen is not None:
        raise MergeError(f"freezing {' or '.join(frozen.match)} keeps the base's values; name the base")
    return first


def plan_models(spec: MergeSpec, opened: Opened) -> Plan:
    """Return the plan of a full-model merge; `MergeError` for missing, extra or misshapen tensors."""
    donor = donor_of(spec, opened)
    full = {i: m for i, m in enumerate(opened.models) if isinstance(m, Checkpoint)}
    notes = check_models(spec, donor, full)
    if "tied" not in spec.allow:
        for adapter in opened.adapters:
            check_tied(adapter, donor)
    steps: list[Step] = []
    parts = parts_of(spec, opened, donor)
    subjects = [_subjects(part) if part.choices is None else {} for part in parts]
    everything = [subject for own in subjects for subject in own.values()]
    groups = Groups(subjects=everything, where=str(donor.folder))
    for part, own in zip(parts, subjects, strict=True):
        given = part.choices
        steps += _part_steps(spec, part, assign(spec, groups, own, part.numbers) if given is None else given)
    telling = Telling(spec.models, opened, (step.method for step in steps if step.method), spec.allow)
    steps = [telling.checked(step, step.name) for step in steps]
    nbytes = sum(math.prod(s.shape) * BITS[s.stored] // 8 for s in steps if s.action != "drop")
    return Plan(
        spec=spec, kind="model", steps=tuple(steps), warnings=(*opened.warnings, *notes),
        donor=str(donor.folder), nbytes=nbytes,
    )  # fmt: skip


def _subjects(part: Part) -> dict[str, Subject]:
    """Return a part's tensors as selectors see them: by their names on disk and in adapters."""
    modules: dict[str, list[str]] = {}
    for source in part.sources:
        for tensor, module in source.modules.items():
            modules.setdefault(tensor, []).append(module)
    names = [[name, *modules.get(name, ())] for name in part.donor.names()]
    return subjects_of(names, towers_of(part.donor.config))


def _part_steps(spec: MergeSpec, part: Part, choices: Mapping[str, Choice]) -> list[Step]:
    steps, donor = [], part.donor
    for name in donor.names():
        shape, kind = part.shapes.get(name, donor.shape(name)), donor.entry(name).kind
        owners = tuple(n for n, source in zip(part.numbers, part.sources, strict=True) if source.has(name))
        for n, source in zip(part.numbers, part.sources, strict=True):
            if source.has(name) and source.shape(name) != shape:
                raise MergeError(
                    f"'{name}' is {list(source.shape(name))} in {spec.models[n].path} but "
                    f"{list(shape)} in {donor.folder}; models of different shapes cannot be merged"
                )
        choice = choices[name]
        stored = part.stored.get(name, kind)
        step = Step(name=name, shape=shape, action="copy", stored=stored, group=choice.group)
        if kind not in FLOATS:
            step = replace(step, why=f"{kind} values are not averaged")
        elif choice.frozen:
            step = replace(step, by=choice.by)
        elif owners:
            step = replace(
                step,
                action="merge",
                sources=owners,
                method=choice.method,
                settings=choice.settings,
                by=choice.by,
            )
        steps.append(step)
    for n, source in zip(part.numbers, part.sources, strict=True):
        steps += _extra(spec, n, source, donor)
    return steps


def _extra(spec: MergeSpec, number: int, source: Input, donor: Checkpoint) -> list[Step]:
    found = []
    for name in source.extra(donor):
        assert source.checkpoint is not None
        tied = tied_name(source.checkpoint, name)
        if tied is None and "extra" not in spec.allow:
            raise MergeError(
                f"{spec.models[number].path} has the tensor '{name}', which {donor.folder} does not have "
                "(allow: extra drops it)"
            )
        why = f"tied to '{tied}'" if tied else f"not in {donor.folder}"
        shape = source.checkpoint.shape(name)
        found.append(Step(name=name, shape=shape, action="drop", sources=(number,), why=why))
    return found


def merge_models(
    planned: Plan,
    opened: Opened,
    folder: Path,
    log: Log,
    journal: Journal,
    ranks: Ranks = ALONE,
    host: Host | None = None,
) -> MergeReport:
    """Write the merged model into an existing folder, going on where the journal ends."""
    spec, donor = planned.spec, donor_of(planned.spec, opened)
    ranks.torch_device()  # which must be there
    kept = [step for step in planned.steps if step.action != "drop"]
    log.stage(f"merge {spec.method}", len(kept), "tensors")
    done = {name: Done.from_facts(name, facts) for name, facts in journal.done.items()}
    if done:
        log.say(f"going on after {len(done)} of {len(kept)} tensors that an earlier run finished")
        log.advance(len(done))
    left = [step for step in kept if step.name not in done]
    parts = shares(left, len(spec.models), ranks.world)
    with _writer(planned, donor, folder, {step.name for step in parts[0]}) as writer:
        if host is not None:
            host.call(folder, merge_key(planned, opened, ranks.device), [[s.name for s in p] for p in parts])
        for name, result in _written(planned, opened, parts[0], writer, ranks):
            done[name] = result
            journal.add(name, result.facts(), writer.descriptors)
            log.advance(1)
            if host is not None:
                host.look(log)
    if host is not None:
        host.wait(log)
        found = {name: facts for file in others(folder) for name, facts in finished_by(file).items()}
        done |= {name: Done.from_facts(name, facts) for name, facts in found.items()}
    results = [done[step.name] for step in kept]
    reports = [result.report for result in results if result.report is not None]
    lost, total = sum(r.lost for r in results), sum(r.norm**2 for r in reports)
    infinite = sum(r.infinite for r in results)
    copy_companions(donor, folder)
    adjust_companions(spec, opened, donor, folder)
    note = f"{infinite} tensors of the base hold values that are not finite; they were copied as they are"
    return MergeReport(
        out=folder, kind="model", method=spec.method, merged=len(reports), copied=len(results) - len(reports),
        dropped=tuple(s.name for s in planned.steps if s.action == "drop"), modules=tuple(reports),
        rounding=math.sqrt(lost / total) if total else 0.0,
        warnings=(note,) if infinite else (), digests=writer.digests,
    )  # fmt: skip


def write_share(
    planned: Plan, opened: Opened, folder: Path, names: Sequence[str], journal: Journal, guest: Guest
) -> None:
    """Write some tensors of the merged model into files that the first process has laid out."""
    own = set(names)
    steps = [step for step in planned.steps if step.name in own and step.action != "drop"]
    with _writer(planned, donor_of(planned.spec, opened), folder, own, laid_out=True) as writer:
        for name, result in _written(planned, opened, steps, writer, guest.ranks):
            journal.add(name, result.facts(), writer.descriptors)
            guest.count()
        journal.flush(writer.descriptors)


def _writer(
    planned: Plan, donor: Checkpoint, folder: Path, own: Collection[str], laid_out: bool = False
) -> ShardWriter:
    """Return the writer of the whole output, for the tensors that are this process's own."""
    kept = [step for step in planned.steps if step.action != "drop"]
    return ShardWriter(
        folder, [(step.name, step.stored, step.shape) for step in kept],
        shard_size=planned.spec.shard_size, metadata=donor.metadata,
        done={step.name for step in kept} - set(own), laid_out=laid_out, hashed=not laid_out,
    )  # fmt: skip


def _written(
    planned: Plan, opened: Opened, steps: Sequence[Step], writer: ShardWriter, ranks: Ranks
) -> Iterator[tuple[str, Done]]:
    """Write some tensors, and yield what there is to say of each."""
    if not steps:
        return
    spec = planned.spec
    keys, device = _lock.model_keys(opened), ranks.torch_device()
    telling = Telling(spec.models, opened, (s.method for s in planned.steps if s.method), spec.allow)
    works = [_work(spec, part, keys, device) for part in parts_of(spec, opened, donor_of(spec, opened))]
    work_of = {name: work for work in works for name in work.donor.names()}
    threads = threads_within(replace(planned, steps=tuple(steps)), works[0].method, ranks)
    surveys = _surveys(works[0], planned.steps)

    def one(step: Step) -> tuple[str, Done]:
        own = work_of[step.name]
        told = telling.told(step.method, own.numbers)
        work = replace(own, method=method(step.method or spec.method), told=told)
        found, offset = surveys.get(step.name, (None, 0))
        return step.name, merge_tensor(work, step, writer, replace(work.place, survey=found, offset=offset))

    yield from in_order(one, steps, threads)


def _work(spec: MergeSpec, part: Part, keys: Sequence[str], device: str) -> Work:
    """Return what the tensors of one part share."""
    return Work(
        donor=part.donor, base=part.base, guarded=part.guarded, sources=part.sources,
        ground=part.ground, method=method(spec.method),
        place=Place(seed=spec.seed, keys=tuple(keys[n] for n in part.numbers)),
        names=[str(spec.models[n].path) for n in part.numbers], numbers=part.numbers, device=device,
    )  # fmt: skip


def _surveys(work: Work, steps: Sequence[Step]) -> dict[str, tuple[Any, int]]:
    """Return, for tensors that are looked at together, what the look found, and each one's offset in it."""
    scopes: dict[str, list[Step]] = {}
    for step in steps:
        if step.action == "merge" and step.settings.get("scope") == "model":
            scopes.setdefault(survey_key(step), []).append(step)
    found: dict[str, tuple[Any, int]] = {}
    for own in scopes.values():
        chosen = replace(work, method=method(own[0].method))
        survey, offsets = survey_model(chosen, own, own[0].settings)
        found |= {name: (survey, offset) for name, offset in offsets.items()}
    return found


def copy_companions(donor: Checkpoint, folder: Path) -> None:
    """Copy every file of the donor that is no weight and does not describe the donor itself."""
    for name in donor.companions():
        if str(name) in LEFT:
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(donor.folder / name, target)

"""An adapter baked into its base: a full model that needs no adapter, and on which base that is right.

The base whose fingerprint the adapter records is the right one; where it records none, a reference tells:
a model that has the adapter in it, or the base that it was trained on. The error of a candidate is measured
on the weights that the adapter adapts, in lengths of what it changes: an adapter trained on a quantised base
(QLoRA, arXiv:2305.14314) and baked onto another one is off by many times its own length. So a base may stand
for itself, for its stored codes, or for what loading it in 4 or 8 bits made of it; the values of one that was
rounded are written beside the result, since the adapter belongs to them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergers import _engine
from mergers._quantised import (
    AUTO,
    KINDS,
    WHOLE,
    Values,
    check_kind,
    place_in,
    quantised_as,
    write_values,
)
from mergers._report import MergeReport
from mergers._spec import MergeSpec
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.log import Log, QuietLog

#: A rounding loss beyond which the adapter is the better way to keep the change.
MUCH = 0.1
#: Values that are looked at of each weight, from its beginning.
LOOK = 64 * WHOLE


def bake(
    adapter: str | Path,
    out: str | Path,
    *,
    bases: Sequence[str | Path] = (),
    reference: str | Path | None = None,
    quantised: str | None = None,
    allow: Iterable[str] = (),
    log: Log | None = None,
    **more: Any,
) -> MergeReport:
    """Write the base with the adapter in it as a full model, and return the report with its rounding loss.

    ``bases`` are candidates; without any it is the one that the adapter names. ``quantised`` says how they
    were loaded for training: nf4, nf4-double, int8, or auto to try them all by a reference. ``more`` are keys
    of a merge file: threads, shard_size, max_ram. ``report.details`` holds each candidate's measured error
    under "errors", and under "base" the one that was taken; dequantised it is written to OUT-base.

    Raises `MergeError` where no candidate is the right base, or several could be, and for an adapter on a
    table that embedding and head share.
    """
    log, allowed, out = log or QuietLog(), list(allow), Path(out)
    if not is_adapter(adapter):
        raise MergeError(f"{adapter} is no adapter: there is no adapter_config.json in it")
    check_kind(quantised or "")
    found = read_adapter(adapter)
    folders = [Checkpoint(folder) for folder in bases] or [Checkpoint(find_model(found.base))]
    candidates, wanted = _candidates(found, folders, quantised or "")
    told = _values(Checkpoint(reference)) if reference is not None else None
    chosen, errors = choose_base(found, candidates, told, "base" in allowed, wanted)
    for name, error in errors.items():
        log.say(f"  {name}: off by {error:.3g} times what the adapter changes")
    if errors or len(candidates) > 1:
        log.say(f"baking into {chosen}")
    base, written = chosen.folder, None
    if chosen.kind:
        written = out.with_name(f"{out.name}-base")
        base = write_values(chosen, written, log, {"errors": errors}).folder
        log.say(f"its values are in {base}; the adapter belongs to these, as {base}+{adapter}")
    keys = {"method": "linear", "base": base, "models": [adapter], "output": "model"}
    given = {key: value for key, value in more.items() if value is not None}
    try:
        # The fingerprint that an adapter records is that of what was loaded, which has been looked at.
        allowing = {"allow": [*allowed, "base"] if chosen.kind and "base" not in allowed else allowed}
        report = _engine.merge(MergeSpec.from_mapping({**keys, **allowing, **given}, where="bake"), out, log)
    except BaseException:
        if written is not None:
            shutil.rmtree(written, ignore_errors=True)
        raise
    if report.rounding > MUCH:
        log.say(
            f"  note: {report.rounding:.0%} of what the adapter changes is lost in the stored type; beside "
            "the base, as MODEL+ADAPTER, nothing is"
        )
    return replace(report, details={**report.details, "errors": errors, "base": str(chosen)})


def _values(checkpoint: Checkpoint) -> Values:
    """Return a checkpoint's values, decoded where it holds codes."""
    return Values(checkpoint=checkpoint, kind="stored" if quantised_as(checkpoint) == "stored" else "")


def _candidates(
    adapter: Adapter, folders: Sequence[Checkpoint], quantised: str
) -> tuple[list[Values], str | None]:
    """Return what the adapter may have been trained on, and the kind that is meant; None if that is open.

    Without a word about it, the configuration of the base that the adapter names says how it was loaded.
    """
    told = adapter.note.get("quantised") or {}
    named = quantised or str(told.get("kind", "")) or quantised_as(_here(adapter) or folders[0])
    found: list[Values] = []
    for checkpoint in folders:
        if quantised_as(checkpoint) == "stored":
            found.append(Values(checkpoint=checkpoint, kind="stored"))
            continue
        kinds = KINDS if named in (AUTO, "stored") else (named,) if named else ()
        only = _rounded_there(told.get("modules"), checkpoint)
        found += [Values(checkpoint=checkpoint, kind=kind, only=only) for kind in ("", *kinds)]
    if any(one.kind == "stored" for one in found):
        return found, "stored"
    return found, None if named in (AUTO, "stored") else named


def _rounded_there(
    modules: Mapping[str, Sequence[int]] | None, checkpoint: Checkpoint
) -> frozenset[str] | None:
    """Return the tensors that an adapter says were rounded while it was trained; None if it says nothing."""
    if not modules:
        return None
    shapes = {name: tuple(shape) for name, shape in modules.items()}
    return frozenset(place_in(Values(checkpoint=checkpoint), shapes).values())


def _here(adapter: Adapter) -> Checkpoint | None:
    """Return the base that an adapter names, if it is here."""
    try:
        return Checkpoint(find_model(adapter.base)) if adapter.base else None
    except CheckpointError:
        return None


def choose_base(
    adapter: Adapter,
    candidates: Sequence[Values],
    reference: Values | None,
    any_base: bool,
    wanted: str | None = "",
) -> tuple[Values, dict[str, float]]:
    """Return the base to bake into, and the candidates' measured errors where there is something to compare.

    ``wanted`` is the kind of base that is meant, None if only a reference can tell; ``any_base`` lets a base
    be taken whose fingerprint is not the recorded one.
    """
    recorded, truth = adapter.base_fingerprint, reference
    if truth is None and wanted is None and (own := _here(adapter)) is not None:
        truth = _values(own) if quantised_as(own) == "stored" else None
    fits = [c for c in candidates if recorded and c.checkpoint.fingerprint() == recorded]
    known = truth is not None and truth.kind == "stored" and truth.checkpoint.fingerprint() == recorded
    if recorded and not fits and not known and not any_base:
        tried = " or ".join(dict.fromkeys(str(c.folder) for c in candidates))
        raise MergeError(
            f"{adapter.folder} was trained on {adapter.base or 'a base'} with the fingerprint "
            f"{recorded[:12]}, which {tried} does not have (allow: base overrides)"
        )
    pool = fits if fits and not any_base else list(candidates)
    if truth is not None:
        errors = _errors(adapter, candidates, truth)
        return min(pool, key=lambda c: errors[str(c)]), errors
    if wanted is None:
        raise MergeError(
            "how the base was quantised is measured by a --reference, the base as it was trained on or a "
            f"model with the adapter in it; else say --quantised {', '.join(KINDS[:-1])} or {KINDS[-1]}"
        )
    meant = [c for c in pool if c.kind == wanted]
    if len(meant) > 1 and not fits:
        raise MergeError(
            f"{adapter.folder} does not record its base's fingerprint, so {len(meant)} could be it; "
            "name one, or a --reference to measure by"
        )
    chosen = meant[0] if meant else pool[0]
    return chosen, _errors(adapter, candidates, chosen) if len(candidates) > 1 else {}


def _errors(adapter: Adapter, candidates: Sequence[Values], truth: Values) -> dict[str, float]:
    """Return how far each candidate is from a model, in lengths of the adapter's change.

    The model may have the adapter in it or not: the candidates tell, which are nearer in one of the two.
    """
    found = {str(c): _error(adapter, c, truth) for c in candidates}
    baked = min(pair[0] for pair in found.values()) < min(pair[1] for pair in found.values())
    return {name: pair[0 if baked else 1] for name, pair in found.items()}


def _error(adapter: Adapter, candidate: Values, truth: Values) -> tuple[float, float]:
    """Return how far a candidate is from a model, with the adapter in it and without.

    Looked at is the beginning of each weight that the adapter adapts.
    """
    modules = {name: adapter.shape(name) for name in adapter.names()}
    places, others = place_in(candidate, modules), place_in(truth, modules)
    baked = plain = size = 0.0
    for name, shape in modules.items():
        factors, numel = adapter.factors(name), math.prod(shape)
        count = numel if factors.magnitude is not None else min(LOOK, numel)
        ground = candidate.read(places[name], count).float()
        apart = ground - truth.read(others[name], count).float()
        if factors.magnitude is not None:
            delta = factors.delta(ground.view(shape)).reshape(-1)
        else:
            rows = -(-count // factors.a.shape[1])
            delta = (factors.b[:rows] @ factors.a).reshape(-1)[:count]
        plain += float(apart.double().square().sum())
        baked += float((apart + delta).double().square().sum())
        size += float(delta.double().square().sum())
    return (math.sqrt(baked / size), math.sqrt(plain / size)) if size else (0.0, 0.0)

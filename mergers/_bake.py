"""An adapter baked into its base: a full model that needs no adapter, and on which base that is right.

The base whose fingerprint the adapter records is the right one; where it records none, a reference tells:
a model that has the adapter in it, or the base that it was trained on. The error of a candidate is measured
on the adapter's own tensors, in lengths of what the adapter changes: an adapter trained on a quantised base
and baked onto another one is off by many times its own length (QLoRA, arXiv:2305.14314, trains like that).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergers import _engine
from mergers._report import MergeReport
from mergers._sources import Source
from mergers._spec import MergeSpec
from mergers._stream import PIECE
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.log import Log, QuietLog

#: A rounding loss beyond which the adapter is the better way to keep the change.
MUCH = 0.1


def bake(
    adapter: str | Path,
    out: str | Path,
    *,
    bases: Sequence[str | Path] = (),
    reference: str | Path | None = None,
    allow: Iterable[str] = (),
    log: Log | None = None,
    **more: Any,
) -> MergeReport:
    """Write the base with the adapter in it as a full model, and return the report with its rounding loss.

    ``bases`` are candidates; without any it is the one that the adapter names. ``more`` are keys of a merge
    file: threads, shard_size, max_ram. ``report.details["errors"]`` holds each candidate's measured error.

    Raises `MergeError` where no candidate is the right base, or several could be, and for an adapter on a
    table that embedding and head share.
    """
    log, allowed = log or QuietLog(), list(allow)
    if not is_adapter(adapter):
        raise MergeError(f"{adapter} is no adapter: there is no adapter_config.json in it")
    found = read_adapter(adapter)
    candidates = [Checkpoint(folder) for folder in bases] or [Checkpoint(find_model(found.base))]
    base, errors = choose_base(found, candidates, reference, "base" in allowed)
    for folder, error in errors.items():
        log.say(f"  {folder}: off by {error:.3g} times what the adapter changes")
    if errors or len(candidates) > 1:
        log.say(f"baking into {base.folder}")
    keys = {"method": "linear", "base": base.folder, "models": [adapter], "output": "model"}
    given = {key: value for key, value in more.items() if value is not None}
    spec = MergeSpec.from_mapping({**keys, "allow": allowed, **given}, where="bake")
    report = _engine.merge(spec, out, log)
    if report.rounding > MUCH:
        log.say(
            f"  note: {report.rounding:.0%} of what the adapter changes is lost in the stored type; beside "
            "the base, as MODEL+ADAPTER, nothing is"
        )
    return replace(report, details={**report.details, "errors": errors})


def choose_base(
    adapter: Adapter, candidates: Sequence[Checkpoint], reference: str | Path | None, any_base: bool
) -> tuple[Checkpoint, dict[str, float]]:
    """Return the base to bake into, and the candidates' measured errors where there is something to compare.

    ``any_base`` lets a base be taken whose fingerprint is not the recorded one.
    """
    recorded = adapter.base_fingerprint
    right = next((c for c in candidates if recorded and c.fingerprint() == recorded), None)
    if recorded and right is None and not any_base:
        tried = " or ".join(str(c.folder) for c in candidates)
        raise MergeError(
            f"{adapter.folder} was trained on {adapter.base or 'a base'} with the fingerprint "
            f"{recorded[:12]}, which {tried} does not have (allow: base overrides)"
        )
    if reference is not None:
        model = Checkpoint(reference)
        errors = {str(c.folder): _error(adapter, c, model, baked=True) for c in candidates}
    elif right is not None and len(candidates) > 1:
        errors = {str(c.folder): _error(adapter, c, right, baked=False) for c in candidates}
    else:
        errors = {}
    if right is not None and not any_base:
        return right, errors
    if errors:
        return min(candidates, key=lambda c: errors[str(c.folder)]), errors
    if len(candidates) > 1:
        raise MergeError(
            f"{adapter.folder} does not record its base's fingerprint, so {len(candidates)} could be it; "
            "name one, or a --reference to measure by"
        )
    return candidates[0], errors


def _error(adapter: Adapter, candidate: Checkpoint, other: Checkpoint, baked: bool) -> float:
    """Return how far a candidate is from another model, in lengths of the adapter's change.

    With ``baked`` it is the candidate with the adapter in it. Looked at is the beginning of each tensor that
    the adapter changes.
    """
    changed, beside = Source(donor=candidate, adapter=adapter), Source(donor=candidate, checkpoint=other)
    off = size = 0.0
    for name in changed.modules:
        count = min(candidate.entry(name).numel, PIECE)
        ground = candidate.read_flat(name, 0, count).float()
        values = changed.reader(name)(0, count, ground).float()
        truth = beside.reader(name)(0, count, None).float()
        off += float(((values if baked else ground) - truth).double().square().sum())
        size += float((values - ground).double().square().sum())
    return math.sqrt(off / size) if size else 0.0

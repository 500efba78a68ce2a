"""Tensor mathematics of merging, one method a file.

    from mergers import MergeSpec, merge, plan

    spec = MergeSpec.from_yaml("merge.yaml")
    print(plan(spec).text())
    report = merge(spec, "runs/merged", log)

Importing this package imports no torch; `plan` and `merge` do.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergers._ranks import ALONE, Ranks
from mergers._spec import MergeSpec, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergers._bake import bake
    from mergers._card import declare
    from mergers._diagnose import Diagnosis
    from mergers._diff import diff
    from mergers._differences import Diff
    from mergers._engine import merged_deltas, merged_factors
    from mergers._estimate import Estimate
    from mergers._extract import Extraction, extract
    from mergers._plan import Plan
    from mergers._report import MergeReport
    from mergers._unmerge import unmerge
    from studio.log import Log

__all__ = [
    "Diff",
    "Extraction",
    "MergeReport",
    "MergeSpec",
    "Model",
    "Plan",
    "Ranks",
    "bake",
    "declare",
    "diagnose",
    "diff",
    "estimate",
    "extract",
    "merge",
    "merged_deltas",
    "merged_factors",
    "plan",
    "replay",
    "unmerge",
    "verify",
]


def plan(spec: MergeSpec) -> Plan:
    """Return what a merge would do; reads headers only and writes nothing.

    Raises subclasses of `TriptychError` for everything that would stop the merge before it starts.
    """
    from mergers import _engine

    return _engine.plan(spec)


def estimate(planned: Plan, out: str | Path = ".", *, ranks: Ranks | None = None) -> Estimate:
    """Return what a planned merge into ``out`` will take: peak memory, disk and time."""
    from mergers import _estimate

    return _estimate.estimate(planned, out, ranks or ALONE)


def merge(
    spec: MergeSpec, out: str | Path, log: Log | None = None, *, ranks: Ranks | None = None
) -> MergeReport:
    """Merge as ``spec`` says into the folder ``out``, whole or not at all, and return the report.

    ``ranks`` says by how many processes and on which device, as in ``Ranks.of(nproc=2)``; the result is the
    same for any number. Raises subclasses of `TriptychError`; nothing is left behind then, except where one
    of several processes was killed: the same merge goes on from there.
    """
    if ranks is not None and ranks.several:
        from mergers._together import merge_together

        return merge_together(spec, Path(out), log, ranks)
    from mergers._early import hash_inputs

    hash_inputs(spec)
    from mergers import _engine

    return _engine.merge(spec, out, log, ranks or ALONE)


def diagnose(
    what: MergeSpec | tuple[Sequence[str | Path], str | Path],
    merged: str | Path | None = None,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    log: Log | None = None,
) -> Diagnosis:
    """Measure what a merge has to work with, and what it made of it.

    ``what`` is a merge, or (inputs, merged) with a ``base`` where one is needed; ``merged`` is the finished
    result. With ``out`` the figures, the heat maps and the page are written there: diagnosis.json,
    diagnosis.png and diagnosis.html.

    Lengths, cosines, overlaps and kept energy of adapters are exact, from their factors alone; those of full
    models take a few passes over the files. Weights of a merge play no part, and neither do biases that an
    adapter adds to its modules. Raises subclasses of `TriptychError`.
    """
    from mergers import _diagnose

    return _diagnose.diagnose(what, merged, out, base=base, log=log)


def verify(folder: str | Path) -> list[str]:
    """Return what no longer agrees with a merge's lock file: the output, and inputs that are still there.

    Raises `CheckpointError` when the folder has no readable lock file.
    """
    from mergers import _engine

    return _engine.verify(folder)


def replay(folder: str | Path, out: str | Path, log: Log | None = None) -> MergeReport:
    """Make a merge again from its lock file; `MergeError` unless the result has the same fingerprint.

    The new folder is kept in either case, so that the two can be compared.
    """
    from mergers import _engine

    return _engine.replay(folder, out, log)


#: What needs torch -> the module that it is imported from when it is used.
_LATER = {
    "Diff": "_differences",
    "Extraction": "_extract",
    "MergeReport": "_report",
    "Plan": "_plan",
    "bake": "_bake",
    "declare": "_card",
    "diff": "_diff",
    "extract": "_extract",
    "merged_deltas": "_engine",
    "merged_factors": "_engine",
    "unmerge": "_unmerge",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used."""
    if name in _LATER:
        return getattr(importlib.import_module(f"mergers.{_LATER[name]}"), name)
    raise AttributeError(f"module 'mergers' has no attribute '{name}'")

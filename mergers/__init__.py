"""Tensor mathematics of merging, one method a file.

    from mergers import MergeSpec, merge, plan

    spec = MergeSpec.from_yaml("merge.yaml")
    print(plan(spec).text())
    report = merge(spec, "runs/merged", log)

Importing this package imports no torch; `plan` and `merge` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergers._spec import MergeSpec, Model

if TYPE_CHECKING:
    from mergers._engine import merge, plan, replay, verify
    from mergers._plan import Plan
    from mergers._report import MergeReport

__all__ = ["MergeReport", "MergeSpec", "Model", "Plan", "merge", "plan", "replay", "verify"]

_LAZY = {
    "merge": "_engine",
    "plan": "_engine",
    "replay": "_engine",
    "verify": "_engine",
    "Plan": "_plan",
    "MergeReport": "_report",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"mergers.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'mergers' has no attribute '{name}'")

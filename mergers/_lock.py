"""Where a merge came from: sha256 of inputs and output, the recipe, the seed and the versions."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mergers._inputs import Opened
from mergers._plan import Plan
from mergers._report import MergeReport
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint

LOCK = "merge.lock.json"


def model_keys(opened: Opened) -> tuple[str, ...]:
    """Return what names each model in keys of random numbers: its contents, so that order does not matter."""
    seen: Counter[str] = Counter()
    keys = []
    for model in opened.models:
        found = (model.checkpoint if isinstance(model, Adapter) else model).sample()
        keys.append(f"{found}.{seen[found]}")
        seen[found] += 1
    return tuple(keys)


def write_lock(folder: Path, planned: Plan, opened: Opened, report: MergeReport) -> MergeReport:
    """Write ``merge.lock.json`` into a finished output; return the report with the output's fingerprint."""
    result = Checkpoint(folder).fingerprint()
    lock: dict[str, Any] = {
        "recipe": planned.spec.to_mapping(),
        "inputs": [_input(model) for model in opened.models],
        "base": _input(opened.base) if opened.base is not None else None,
        "output": {"kind": planned.kind, "fingerprint": result},
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "triptych": _version()},
        "report": {
            "merged": report.merged,
            "copied": report.copied,
            "dropped": list(report.dropped),
            "energy": report.energy,
            "rounding": report.rounding,
            "warnings": list(report.warnings),
        },
    }
    (folder / LOCK).write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    return replace(report, fingerprint=result)


def _input(model: Adapter | Checkpoint) -> dict[str, str]:
    checkpoint = model.checkpoint if isinstance(model, Adapter) else model
    return {"path": str(model.folder), "fingerprint": checkpoint.fingerprint()}


def _version() -> str:
    try:
        return metadata.version("triptych")
    except metadata.PackageNotFoundError:
        return "source"

"""Where a merge came from: sha256 of inputs and output, the recipe, the seed and the versions."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mergers._inputs import Opened
from mergers._plan import Plan
from mergers._report import MergeReport
from mergers._told import statistics_files
from studio.adapter_format import read_json
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.files import atomic_write, sha256_file
from studio.fingerprint import fingerprint

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
    result = fingerprint(Checkpoint(folder).files, known=report.digests)
    lock: dict[str, Any] = {
        "recipe": planned.spec.to_mapping(),
        "inputs": [_input(model) for model in opened.models],
        "statistics": _statistics(planned),
        "base": _input(opened.base) if opened.base is not None else None,
        "output": {"kind": planned.kind, "fingerprint": result},
        "versions": _versions(),
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
    return replace(report, fingerprint=result, digests={})


def write_made(folder: Path, recipe: Mapping[str, Any], again: str) -> None:
    """Write ``merge.lock.json`` beside an adapter that something else than the merge engine made of others.

    ``recipe`` names ``method``, ``base`` and ``models`` as a merge file does; ``again`` is the command that
    makes it once more.
    """
    lock = {
        "recipe": recipe,
        "again": again,
        "inputs": [_input(Checkpoint(Path(model["path"]))) for model in recipe["models"]],
        "base": _input(Checkpoint(Path(recipe["base"]))),
        "output": {"kind": "adapter", "fingerprint": Checkpoint(folder).fingerprint()},
        "versions": _versions(),
    }
    atomic_write(folder / LOCK, json.dumps(lock, indent=2, default=str) + "\n")


def differences(folder: Path) -> list[str]:
    """Return a sentence for each fingerprint in the lock file that no longer holds."""
    lock = read_lock(folder)
    found = []
    if Checkpoint(folder).fingerprint(fresh=True) != lock["output"]["fingerprint"]:
        found.append(f"the weights in {folder} are not those that the merge wrote")
    for item in [*lock["inputs"], *([lock["base"]] if lock["base"] else [])]:
        path = Path(item["path"])
        if not path.is_dir():
            found.append(f"the input {path} is gone")
        elif Checkpoint(path).fingerprint(fresh=True) != item["fingerprint"]:
            found.append(f"the input {path} has changed since the merge")
    for file, digest in lock.get("statistics", {}).items():
        if not Path(file).is_file() or sha256_file(file) != digest:
            found.append(f"the statistics {file} are gone or have changed since the merge")
    return found


def _statistics(planned: Plan) -> dict[str, str]:
    """Return the statistics files that the merge used, with their sha256."""
    return {str(file): sha256_file(file) for file in statistics_files(planned)}


def recipe(folder: Path) -> tuple[dict[str, Any], str]:
    """Return what a lock file says was merged, and the fingerprint of the result.

    Raises:
        CheckpointError: there is no lock file.
        MergeError: something else than the merge engine made it; the command is named.
    """
    lock = read_lock(folder)
    if "again" in lock:
        raise MergeError(f"{folder} is no merge of weights alone; `{lock['again']}` makes it again")
    return lock["recipe"], str(lock["output"]["fingerprint"])


def read_lock(folder: Path) -> dict[str, Any]:
    """Return a merge's lock file; `CheckpointError` if there is none, or it is something else."""
    lock = read_json(folder / LOCK)
    missing = [key for key in ("recipe", "inputs", "base", "output") if key not in lock]
    if missing:
        raise CheckpointError(f"{folder / LOCK} is no lock file of a merge: '{missing[0]}' is missing")
    return lock


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": version("torch"),
        "numpy": version("numpy"),
        "triptych": version("triptych"),
    }


def _input(model: Adapter | Checkpoint) -> dict[str, str]:
    checkpoint = model.checkpoint if isinstance(model, Adapter) else model
    return {"path": str(model.folder), "fingerprint": checkpoint.fingerprint()}


def version(package: str) -> str:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source"

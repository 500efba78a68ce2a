"""The run folder: alone enough to show a run, to repeat it, or to merge what came of it.

run.json        recipe, config, seed, versions, hashes of the inputs, timings, results
metrics.jsonl   one line a step
adapter/        or model/: what was learned
README.md       the card, for people
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from studio.config import flatten
from studio.errors import CheckpointError, ConfigError
from studio.files import atomic_write

FILE, CARD = "run.json", "README.md"
#: What a run leaves in its folder beside its files.
PARTS = ("last", "adapter", "model")
PACKAGES = ("triptych", "torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What ``run.json`` holds.

    ``inputs`` are hashes of what went in, by the name of the setting; ``fingerprint`` covers the recipe, the
    settings that change the result, and the inputs' contents, but not their paths: runs with the same
    fingerprint give the same result. ``data`` says where each input of rows is from, as
    `studio.data.provenance` tells it, ``towers`` what of the model learns and how. ``timings`` are seconds by
    stage.
    """

    recipe: str
    config: Mapping[str, Any]
    seed: int
    fingerprint: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    state: Literal["running", "stopped", "finished"] = "running"
    started: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    towers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def new_record(
    recipe: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    apart: Iterable[str] = (),
    processes: int = 1,
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> Record:
    """Return the record of a run that begins now.

    ``config`` is what `studio.config.to_dict` gives; settings named in ``apart`` (where to write, how often
    to save), dotted or whole groups, and the paths of ``inputs`` are left out of the fingerprint.
    """
    skipped = {*apart, *inputs}
    result = {key: value for key, value in flatten(config).items() if not skipped & set(_above(key))}
    text = json.dumps([recipe, result, dict(inputs), processes], sort_keys=True)
    return Record(
        recipe=recipe,
        config=dict(config),
        seed=int(config.get("seed", 0)),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        inputs=dict(inputs),
        data=dict(data or {}),
        versions=versions(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_run(folder: Path, record: Record) -> None:
    """Write ``run.json``, whole or not at all."""
    atomic_write(folder / FILE, json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n")


def read_run(folder: Path) -> Record | None:
    """Return the record of the run in ``folder``, or None if none has begun there.

    Raises:
        CheckpointError: if its run.json is not one of ours.
    """
    path = folder / FILE
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        raise CheckpointError(
            f"{path} does not describe a run; it is damaged or of another program"
        ) from None


def find_same(folder: Path, new: Record, resume: bool | None, *, apart: Iterable[str] = ()) -> Record | None:
    """Return the run in ``folder`` if it is the same as ``new``, or None to start from nothing.

    ``resume`` False never looks; True demands that there is one.

    Raises:
        ConfigError: if the folder holds another run (naming what changed), or none though one is demanded.
        CheckpointError: if its run.json is damaged.
    """
    old = None if resume is False else read_run(folder)
    if old is None:
        if resume:
            raise ConfigError(f"resume=true, but {folder} holds no run to go on with")
        return None
    if old.fingerprint != new.fingerprint:
        told = differences(old, new, apart=apart) or ["the number of processes changed"]
        raise ConfigError(
            f"{folder} holds another run: {', '.join(told)}; give another output, or resume=false"
        )
    return old


def begin_run(folder: Path, record: Record, *, fresh: bool) -> None:
    """Write ``run.json`` of a run that starts or goes on; a ``fresh`` one removes what an old one left."""
    for left in PARTS if fresh else ():
        shutil.rmtree(folder / left, ignore_errors=True)
    write_run(folder, record)


def differences(old: Record, new: Record, *, apart: Iterable[str] = ()) -> list[str]:
    """Return in words how two runs with other fingerprints differ, settings first: ``lr 0.1 (was 0.2)``."""
    skipped = {*apart, *new.inputs, *old.inputs}
    before, now = flatten(old.config), flatten(new.config)
    told = [
        f"{key} {now.get(key)} (was {before.get(key)})"
        for key in {**before, **now}
        if not skipped & set(_above(key)) and before.get(key) != now.get(key)
    ]
    for key in {**old.inputs, **new.inputs}:
        if old.inputs.get(key) != new.inputs.get(key):
            told.append(f"the contents of {key} changed")
    if old.recipe != new.recipe:
        told.insert(0, f"recipe {new.recipe} (was {old.recipe})")
    return told


def _above(key: str) -> list[str]:
    """Return a dotted name and the groups it stands in: ``a.b.c``, ``a.b``, ``a``."""
    steps = key.split(".")
    return [".".join(steps[:count]) for count in range(len(steps), 0, -1)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_card(
    folder: Path, title: str, record: Record, *, summary: str, use: str, tags: Iterable[str]
) -> None:
    """Write README.md: a model card with the inputs, the settings and the results of a finished run.

    ``summary`` is a paragraph, ``use`` a command or a piece of code that uses the result.
    """
    base = str(record.config.get("model", ""))
    head = ["---", f"base_model: {json.dumps(base)}", "tags:", *(f"- {tag}" for tag in tags), "---"]
    inputs = [(key, f"`{record.config.get(key)}`", f"`{value[:16]}`") for key, value in record.inputs.items()]
    parts = [
        "\n".join(head),
        f"# {title}",
        summary,
        "## Results",
        _table(("figure", "value"), [(key, f"{value:.4g}") for key, value in record.metrics.items()]),
        "## Inputs",
        _table(("input", "path", "sha256"), inputs),
        *(["## Data", _origins(record)] if record.data else []),
        "## Settings",
        _table(("setting", "value"), [(key, f"`{value}`") for key, value in flatten(record.config).items()]),
        "## Made with",
        _table(("package", "version"), list(record.versions.items())),
        f"Started {record.started}; "
        + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in record.timings.items())
        + ".",
        "## Use",
        f"```\n{use}\n```",
    ]
    atomic_write(folder / CARD, "\n\n".join(parts) + "\n")


def _origins(record: Record) -> str:
    """Return a table of the sets that went in: what they are, how they may be used, where they are from."""
    rows = []
    for key, found in record.data.items():
        media = "".join(f", {found[kind]:,} {kind}" for kind in ("pictures", "sounds") if found.get(kind))
        names = (", ".join(found.get(what) or {}) for what in ("licenses", "sources"))
        rows.append((key, f"{found.get('rows', 0):,} rows{media}", *names))
    return _table(("input", "holds", "licences", "sources"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )

"""Where the variants of an evaluation come from: merges with their recipes, adapters with their trainings.

Everything is read from the folders that evaluation.json names, as they are now; what is gone or damaged there
is told as unknown, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergers._lock import LOCK, read_lock
from studio.adapter_format import is_adapter
from studio.adapter_note import read_note
from studio.data.provenance import told as told_of_data
from studio.errors import TriptychError
from studio.eval_report.assemble import Origin
from studio.eval_report.evaluation import Evaluation
from studio.runs import Record, read_run

#: Settings of a training and of a merge that stand in a report.
_TRAINING = ("model", "method", "towers", "r", "alpha", "adapter", "lr", "epochs", "max_steps", "batch_size")
_MERGE = ("method", "settings", "output", "rank", "seed", "rules")
_DAMAGED = (TriptychError, OSError, KeyError, TypeError, AttributeError)


def origins(
    evaluation: Evaluation,
    models: Mapping[str, Any] | None = None,
    allowed: Callable[[Path], bool] = lambda folder: True,
) -> list[Origin]:
    """Return the origin of every variant, then of what went into the merges among them.

    ``models`` tells ``{"base": path, "folder": path or None}`` of the variants, where evaluation.json does
    not. Folders that are not ``allowed`` are not looked into.
    """
    told, prints = models or evaluation.told.get("models"), evaluation.told.get("variants", {})
    known_as: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    folders = {name: Path(folder) for name in known_as if (folder := _told(known_as[name], "folder"))}
    found = [
        _variant(name, known_as.get(name), str(prints.get(name, "")), allowed) for name in evaluation.variants
    ]
    known = {folder.resolve() for folder in folders.values()}
    inputs: dict[Path, Origin] = {}
    for folder in filter(allowed, folders.values()):
        for path, digest in _inputs(folder):
            if path.resolve() not in known | set(inputs):
                inputs[path.resolve()] = _input(path, digest, allowed)
    return [*found, *inputs.values()]


def place(path: Path | str) -> str:
    """Return a folder as it may be shown to others: relative where it can be, else its last names."""
    whole = Path(path)
    try:
        return whole.resolve().relative_to(Path.cwd()).as_posix()
    except (OSError, ValueError):
        parts = [part for part in whole.parts if part != whole.anchor]
        return "/".join(parts[-3:] if parts[-1:] == ["adapter"] else parts[-2:])


def _variant(name: str, entry: Any, digest: str, allowed: Callable[[Path], bool]) -> Origin:
    folder, base = _told(entry, "folder"), _told(entry, "base")
    if not base:
        return Origin(name=name, sha256=digest)
    if not folder:
        return Origin(name=name, kind="base", sha256=digest, facts={"folder": place(base)})
    kind, facts = _folder(Path(folder), allowed)
    return Origin(name=name, kind=kind, sha256=digest, facts={**facts, "base": place(base)})


def _input(path: Path, digest: str, allowed: Callable[[Path], bool]) -> Origin:
    """Return the origin of what went into a merge."""
    kind, facts = _folder(path, allowed)
    return Origin(name=place(path), kind=kind, variant=False, sha256=digest, facts=facts)


def _folder(folder: Path, allowed: Callable[[Path], bool]) -> tuple[str, dict[str, Any]]:
    """Return what a folder of weights is, and what it says of itself."""
    facts: dict[str, Any] = {"folder": place(folder)}
    try:
        merged, adapter = (folder / LOCK).is_file(), is_adapter(folder)
        if not merged and not adapter and not (folder / "config.json").is_file():
            return "unknown", {**facts, "note": "its folder is gone"}
        if not allowed(folder):
            note = "its folder lies elsewhere and was not looked into"
            return "merge" if merged else "expert", {**facts, "note": note}
        if merged:
            return "merge", facts | _merge(folder)
        record = read_run(folder.parent) or read_run(folder)
        kind = {"adapter": read_note(folder).kind} if adapter else {}
        return "expert", {**facts, **kind, **({"training": _training(record)} if record else {})}
    except _DAMAGED:
        return "unknown", {**facts, "note": "its folder is damaged"}


def _training(record: Record) -> dict[str, Any]:
    settings = {name: value for name in _TRAINING if (value := record.config.get(name)) not in (None, {}, [])}
    return {
        "recipe": record.recipe,
        "state": record.state,
        "started": record.started,
        "seed": record.seed,
        "fingerprint": record.fingerprint,
        "settings": {**settings, "model": _named(settings.get("model"))},
        "data": {
            name: {
                "set": _named(record.config.get(name)),
                "holds": told_of_data(data),
                "sha256": data.get("sha256", ""),
            }
            for name, data in record.data.items()
        },
        "versions": dict(record.versions),
    }


def _merge(folder: Path) -> dict[str, Any]:
    lock = read_lock(folder)
    recipe = lock["recipe"]
    models = [{**model, "path": place(model["path"])} for model in recipe["models"]]
    told = {key: value for key in _MERGE if (value := recipe.get(key)) not in (None, {}, [])}
    return {
        "recipe": {**told, "models": models},
        "inputs": {place(item["path"]): str(item["fingerprint"]) for item in lock["inputs"]},
        "base_weights": str((lock["base"] or {}).get("fingerprint", "")),
        "weights": str(lock["output"]["fingerprint"]),
        "versions": dict(lock.get("versions", {})),
    }


def _inputs(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and fingerprint of what went into the merge in a folder; nothing for what is none."""
    try:
        found = read_lock(folder)["inputs"] if (folder / LOCK).is_file() else []
        yield from [(Path(item["path"]), str(item["fingerprint"])) for item in found]
    except _DAMAGED:
        return


def _told(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    return value if isinstance(value, str) else ""


def _named(path: Any) -> str:
    return place(path) if isinstance(path, str) and "/" in path else str(path)

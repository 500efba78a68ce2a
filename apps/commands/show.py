"""Show one thing: a recipe, method, family, metric, format, augmentation, step, or what is in a folder."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from studio import config, plugins
from studio.assets import asset, shipped
from studio.errors import CheckpointError, UnknownName

EXAMPLE = "triptych show sft\ntriptych show ties\ntriptych show runs/handwriting"
PATH_LIKE = ("/", "\\")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", metavar="NAME", help="a name from `triptych ls`, or the folder of a run or a model"
    )


def run(options: argparse.Namespace) -> int:
    """Print what is known under this name."""
    wanted = options.name.replace("-", "_")
    rooms = [room for room in plugins.ROOMS if wanted in plugins.names(room)]
    for room in rooms:
        module = plugins.load(room, wanted)
        print(f"{plugins.KINDS[room]} {wanted}\n\n{inspect.getdoc(module)}\n")
        print(DETAILS[room](module))
    if rooms:
        return 0
    folder = _folder(options.name)
    print(_run(folder) if (folder / "run.json").is_file() else _checkpoint(folder))
    return 0


def _folder(name: str) -> Path:
    """Return the folder that is meant, if it is none of the names."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name in shipped("models"):
        return asset(f"models/{name}")
    if any(mark in name for mark in PATH_LIKE):
        raise CheckpointError(f"there is no folder {name}")
    known = {known for room in plugins.ROOMS for known in plugins.names(room)}
    raise UnknownName("name", name, known | set(shipped("models")))


def _recipe(module: ModuleType) -> str:
    presets = [
        f"  {name:<10}  {' '.join(f'{key}={value}' for key, value in preset.items())}"
        for name, preset in module.PRESETS.items()
    ]
    return "\n".join(["settings:", config.help_text(module.Config), "", "presets:", *presets])


def _method(module: ModuleType) -> str:
    from mergers._settings import allowed, hint_of
    from studio.config import type_name

    rows = [(name, type_name(hint_of(module, name)), f"{p.default}") for name, p in allowed(module).items()]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    presets = [f"  {name}: {values}" for name, values in getattr(module, "PRESETS", {}).items()]
    text = inspect.getdoc(module.merge) or ""
    return "\n".join([text, "", "settings:", *lines, *(["", "presets:", *presets] if presets else [])])


def _family(module: ModuleType) -> str:
    family = module.FAMILY
    return "\n".join(
        [
            f"takes: {', '.join(sorted(family.modalities))}",
            f"model types: {', '.join(family.model_types)}",
            "towers, and the modules LoRA may adapt there:",
            *(
                f"  {name}: {', '.join(prefixes)}  ~ {family.lora_targets.get(name, 'none')}"
                for name, prefixes in family.towers.items()
            ),
        ]
    )


def _metric(module: ModuleType) -> str:
    best = "higher" if module.HIGHER_IS_BETTER else "lower"
    return f"{inspect.getdoc(module.score) or ''}\n\n{best} is better"


def _format(module: ModuleType) -> str:
    files = ", ".join(getattr(module, "SUFFIXES", ())) or "a folder"
    return f"{inspect.getdoc(module.write) or ''}\n\nreads: {files}"


def _step(module: ModuleType) -> str:
    return f"{inspect.getdoc(module.run) or ''}\n\nsettings:\n{config.help_text(module.Settings)}"


def _augmentation(module: ModuleType) -> str:
    found = inspect.signature(module.augment).parameters.values()
    rows = [f"  {p.name}  {p.annotation}  {p.default}" for p in found if p.kind is p.KEYWORD_ONLY]
    return "\n".join([inspect.getdoc(module.augment) or "", "", "settings, besides p:", *rows])


def _perturbation(module: ModuleType) -> str:
    levels = ", ".join(f"{level:g}" for level in module.LEVELS)
    return f"{inspect.getdoc(module.perturb) or ''}\n\nstrengths 1 to 5: {levels}  {module.UNIT}"


DETAILS: dict[str, Callable[[ModuleType], str]] = {
    "recipes": _recipe,
    "methods": _method,
    "families": _family,
    "metrics": _metric,
    "formats": _format,
    "augment": _augmentation,
    "perturb": _perturbation,
    "steps": _step,
}


def _run(folder: Path) -> str:
    """Return a summary of the run in ``folder``."""
    record = _json(folder / "run.json")
    lines = [f"run {folder}"]
    for key in ("recipe", "state", "started", "seed", "fingerprint"):
        if key in record:
            lines.append(f"  {key:<12} {record[key]}")
    for title in ("metrics", "config", "inputs", "timings", "versions"):
        if isinstance(part := record.get(title), Mapping) and part:
            lines += [f"{title}:", *(f"  {key:<16} {_figure(value)}" for key, value in part.items())]
    data = record.get("data")
    if isinstance(data, Mapping) and data:
        lines.append("trained on:")
        lines += [f"  {key:<12} {_set(found)}" for key, found in data.items() if isinstance(found, Mapping)]
    made = [name for name in ("adapter", "model", "last") if (folder / name).is_dir()]
    if made:
        lines.append(f"holds: {', '.join(made)}")
    return "\n".join(lines)


def _set(found: Mapping[str, Any]) -> str:
    """Return what a run or an adapter keeps of a set it was trained on, in one line."""
    from studio.data.provenance import told

    name = f"{found['card']}: " if found.get("card") else ""
    return f"{name}{told(found)}; sha256 {str(found.get('sha256'))[:16]}"


def _checkpoint(folder: Path) -> str:
    """Return a summary of the model or adapter in ``folder``, from its headers."""
    from math import prod

    from studio.adapter_format import NOTE_FILE, is_adapter, read_adapter
    from studio.checkpoint import Checkpoint

    if is_adapter(folder):
        adapter = read_adapter(folder)
        ranks = sorted({factors.rank for factors in adapter.modules.values()})
        note = _json(folder / NOTE_FILE) if (folder / NOTE_FILE).is_file() else {}
        data = note.get("data")
        return "\n".join(
            [
                f"adapter {folder}",
                f"  base     {adapter.base or 'not said'}",
                f"  family   {adapter.family or 'not said'}",
                f"  modules  {len(adapter.modules)} of rank {', '.join(map(str, ranks))}",
                *([f"  data     {_set(data)}"] if isinstance(data, Mapping) else []),
            ]
        )
    checkpoint = Checkpoint(folder)
    names = checkpoint.names()
    values = sum(prod(checkpoint.shape(name)) for name in names)
    kinds = sorted({str(checkpoint.dtype(name)).removeprefix("torch.") for name in names})
    return "\n".join(
        [
            f"model {folder}",
            f"  model_type   {checkpoint.config.get('model_type', 'not said')}",
            f"  tensors      {len(names)} with {values:,} values in {', '.join(kinds)}",
            f"  fingerprint  {checkpoint.fingerprint()}",
        ]
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} does not describe a run")
    return found


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

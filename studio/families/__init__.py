"""Model families, one file each: the file name is the registry, the checkpoint's model_type the key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from studio import plugins
from studio.errors import CheckpointError, unknown

if TYPE_CHECKING:
    from studio.families._gauge import Gauge
    from studio.families._layout import Module
    from studio.families._reload import Reloaded
    from studio.types import Family


def family(name: str) -> Family:
    """Return the family called ``name``; `UnknownName` with the nearest match when there is none."""
    found: Family = plugins.load("families", name).FAMILY
    return found


def model_type(folder: Path | str) -> str:
    """Return ``model_type`` from a checkpoint's config.json; `CheckpointError` when there is none."""
    config = Path(folder) / "config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no model here (config.json is missing)") from None
    except (ValueError, AttributeError):
        raise CheckpointError(f"{config}: not a JSON object") from None
    if not isinstance(found, str):
        raise CheckpointError(f"{config}: no model_type, so its family is unknown")
    return found


def claiming(kind: str) -> Family | None:
    """Return the family for checkpoints of a model_type, or None; no other family is imported."""
    for name in plugins.mentioning("families", kind):
        if kind in (candidate := family(name)).model_types:
            return candidate
    return None


def detect(folder: Path | str) -> Family:
    """Return the family that handles the checkpoint in ``folder``.

    Raises `CheckpointError` naming the model_types that are handled and how another is added.
    """
    kind = model_type(folder)
    found = claiming(kind)
    if found is not None:
        return found
    handled = [each for name in plugins.names("families") for each in family(name).model_types]
    name = re.sub(r"\W+", "_", kind)
    raise CheckpointError(
        f"{folder}: {unknown('model_type', kind, handled)}; one file adds it, studio/families/{name}.py "
        "(CONTRIBUTING.md, 'A family')"
    )


def gauge(folder: Path | str) -> Gauge:
    """Return what measures rows for the model in ``folder``, without a weight being read."""
    from studio.families import _gauge

    return _gauge.gauge(Path(folder))


def layout(folder: Path | str) -> dict[str, Module]:
    """Return path -> module of the model in ``folder``, built from config.json alone, without its weights.

    Raises `CheckpointError` where transformers has no class for it.
    """
    from studio.families import _layout

    return _layout.layout(folder)


def reload(folder: Path | str) -> Reloaded:
    """Return what comes of loading the model in ``folder``, whatever its architecture."""
    from studio.families import _reload

    return _reload.reload(folder)

"""A whole model written so that it loads like any public checkpoint, processor files included."""

from __future__ import annotations

from pathlib import Path

from studio.families._load import quiet
from studio.types import Loaded


def save_pretrained(loaded: Loaded, folder: Path) -> None:
    """Write weights (safetensors), configuration and processor into an existing folder."""
    with quiet():
        loaded.model.save_pretrained(folder)
        loaded.processor.save_pretrained(folder)

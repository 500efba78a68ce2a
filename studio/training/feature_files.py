"""Features in the user's cache: safetensors files, mapped, shared by runs and processes.

A folder per key (what computed the features), in it files of some media each. They lie in the user's cache
and not in the run's folder, because the next run on the same media wants them too, whatever it trains; the
cache's limit on size then holds for all runs together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from studio.cache import cache_folder, evict, room
from studio.training.shards import write_tensors


def features_folder() -> Path:
    """Return the folder of all features."""
    return cache_folder() / "features"


class FeatureFiles:
    """The features under one key: medium -> its tensors."""

    def __init__(self, key: str) -> None:
        """Map what lies in the cache under ``key``."""
        self._folder = features_folder() / key
        self._files: dict[str, Any] = {}
        self._names: dict[str, tuple[str, int]] = {}
        self.refresh()

    def __contains__(self, medium: str) -> bool:
        """Say whether the features of a medium are known."""
        return medium in self._names

    def refresh(self) -> None:
        """Map files that others have written since; one that is damaged is removed."""
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.name in self._files:
                continue
            with suppress(OSError):
                try:
                    file: Any = safe_open(path, framework="pt")
                    counts = {name: int(count) for name, count in (file.metadata() or {}).items()}
                except (SafetensorError, ValueError):
                    path.unlink()
                    continue
                os.utime(path)  # used now: others go first
                self._files[path.name] = file
                self._names |= {medium: (path.name, count) for medium, count in counts.items()}

    def get(self, medium: str) -> list[Tensor]:
        """Return the features of a medium that is known."""
        name, count = self._names[medium]
        file = self._files[name]
        return [file.get_tensor(f"{medium}/{number}") for number in range(count)]

    def write(self, name: str, features: Mapping[str, Sequence[Tensor]]) -> int:
        """Write a file of some media, whole or not at all, and map it; return its bytes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.safetensors"
        named = {
            f"{medium}/{number}": each
            for medium, tensors in features.items()
            for number, each in enumerate(tensors)
        }
        size = write_tensors(path, named, {medium: str(len(tensors)) for medium, tensors in features.items()})
        self.refresh()
        return size


def fits(media: int, bytes_each: float) -> str:
    """Make room for the features of ``media`` more media; return why not, or the empty string."""
    folder, needed = features_folder(), int(media * bytes_each)
    limit = room(folder)
    if needed > limit:
        return (
            f"the features of {media} media need {needed / 1e9:.3g} GB, the cache may take {limit / 1e9:.3g} "
            "GB (TRIPTYCH_CACHE_GB)"
        )
    evict(folder, limit - needed)
    return ""

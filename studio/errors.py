"""Everything a user can get wrong, as one sentence each.

ValueError
└── TriptychError       the command line prints the sentence and exits with 2
    ├── ConfigError     a setting: unknown key, wrong type, out of range
    ├── UnknownName     a recipe, family, method or metric that does not exist
    ├── DataError       a data row: where (file:line), what, what is allowed
    │   ├── MediaError  a picture or a sound: missing, empty, truncated, wrong type
    │   └── LengthError a row that is longer than the model takes
    ├── CheckpointError a model or adapter folder that cannot be read or trusted
    ├── MergeError      inputs that cannot be merged with each other
    ├── DivergedError   a training whose loss is no number any more
    └── LostProcess     another process of the same run that is gone
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TriptychError(ValueError):
    """A mistake in the input, told in one sentence: what, where, and what is allowed."""


class ConfigError(TriptychError):
    """A setting that is unknown, of the wrong type or out of range."""


class DivergedError(TriptychError):
    """A training whose loss or gradient is no finite number any more."""


class DataError(TriptychError):
    """A data row that cannot be used; the sentence starts with file:line."""


class MediaError(DataError):
    """A picture or a sound that is missing, empty, truncated or of the wrong type."""


class LengthError(DataError):
    """A row that is longer than the model takes."""


class CheckpointError(TriptychError):
    """A model or adapter folder that cannot be read or trusted."""


class MergeError(TriptychError):
    """Models or adapters that cannot be merged with each other as asked."""


class LostProcess(TriptychError):
    """Another process of the same run is gone; what was saved is intact, and the same command goes on."""


class UnknownName(TriptychError):
    """A name that stands for nothing in its room; the sentence offers the nearest match."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say that the room for ``kind`` has no ``name`` among ``known``."""
        super().__init__(unknown(kind, name, known))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for an unknown name: the nearest match, then all that is allowed."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}';{hint} known: {', '.join(names) or 'none'}"

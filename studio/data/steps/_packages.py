"""The packages that some steps need and the house does not."""

from __future__ import annotations

import importlib
from typing import Any

from studio.errors import TriptychError


def needed(module: str, step: str) -> Any:
    """Return a module of the extra ``curate``.

    Raises:
        TriptychError: with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise TriptychError(
            f"step '{step}' needs the package '{error.name}'; `pip install 'triptych[curate]'` brings it"
        ) from None

"""torch, imported when it is first used: what NumPy can do alone starts one and a half seconds sooner.

from studio.later import torch

torch.zeros(3)  # imports torch here, the first time
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, found)
        return found


if TYPE_CHECKING:
    import torch as torch
else:
    torch = _Later("torch")


def has_torch() -> bool:
    """Return whether torch has been imported by now."""
    return hasattr(sys.modules.get("torch"), "set_num_threads")

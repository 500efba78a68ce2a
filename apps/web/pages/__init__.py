"""The pages of the app, one file each: the file's name is the page's address, Compare's is the root.

A page module declares ``TITLE`` (its words in the navigation and its heading), ``PLACE`` (its order
there), ``ROLE`` (the least role that may use it, a key of `apps.web.visitors.ROLES`) and
``lay_out(desk)``, which puts its components into the current Blocks and connects its handlers. Each
handler begins with ``desk.admit(request, ROLE)``. What a page shows of variants it fetches by such a
handler when it is opened: the layout itself is sent to everyone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from apps.web.desk import Desk

ROOT = "compare"
"""The page that stands at the app's own address."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page as its module declares it; ``path`` is its address below the app's, empty for the root."""

    path: str
    title: str
    place: int
    role: str
    lay_out: Callable[[Desk], None]


def pages() -> list[Page]:
    """Return the pages in the order of the navigation."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")]
    return sorted((_read(name) for name in names), key=lambda page: page.place)


def _read(name: str) -> Page:
    module = importlib.import_module(f"{__name__}.{name}")
    path = "" if name == ROOT else name
    return Page(path=path, title=module.TITLE, place=module.PLACE, role=module.ROLE, lay_out=module.lay_out)

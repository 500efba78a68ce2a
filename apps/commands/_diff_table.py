"""A comparison as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from mergers import Diff
    from mergers._differences import Figures

#: So many names of tensors that only one side has are shown.
SHOWN = 5


def table(found: Diff) -> RenderableType:
    """Return the table of a comparison, and below it what could not be compared."""
    made = Table(title=f"{found.one} against {found.two}" if found.two else f"what {found.one} changes")
    for head in (
        "group",
        "tensors",
        "changed",
        *(("relative", "cosine") if found.two else ("norm",)),
        "max abs",
    ):
        made.add_column(head, justify="left" if head == "group" else "right", no_wrap=True)
    for name, figures in found.groups.items():
        made.add_row(name, *_cells(figures, bool(found.two)))
    made.add_section()
    made.add_row("all", *_cells(found.total, bool(found.two)))
    rest = ((f"only {found.one} has", found.only_one), (f"only {found.two} has", found.only_two))
    lines = [_line(what, names) for what, names in rest if names and found.two]
    if found.skipped:
        lines.append(_line("not compared, for their shapes or types", found.skipped))
    if found.total.odd:
        lines.append(f"{found.total.odd} values are not finite and differ")
    return Group(made, *lines)


def _cells(figures: Figures, both: bool) -> list[str]:
    lengths = (
        [_number(figures.relative, ".3e"), _number(figures.cosine, ".6f")]
        if both
        else [_number(math.sqrt(figures.apart), ".3e")]
    )
    return [str(figures.tensors), str(figures.changed), *lengths, _number(figures.largest, ".3e")]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(what: str, names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}"

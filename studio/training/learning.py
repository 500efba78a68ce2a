"""What learns in a run, told tower by tower: as a table for people and as JSON for run.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.training.rules import TowerRule, tower_of
from studio.training.towers import own_path
from studio.types import Family

#: What learns and belongs to no tower, as a method's shared vectors do.
SHARED = "shared"
_COLUMNS = ("tower", "rule", "modules", "learning", "parameters", "lr", "weights")


def learning_table(
    model: Any, family: Family, rules: Mapping[str, TowerRule], *, method: str, lr: float
) -> dict[str, dict[str, Any]]:
    """Return tower -> its rule, how many modules and parameters of it learn, out of how many, and how.

    ``modules`` counts those that hold something that learns, an adapted layer as one; ``weights`` is the type
    of most of the tower's frozen weights, or of what learns where none is frozen.
    """
    rows: dict[str, dict[str, Any]] = {}
    for tower, rule in rules.items():
        rows[tower] = {
            "rule": method if rule.kind == "lora" else rule.kind,
            **{f"adapter_{key}": value for key, value in rule.adapter.items()},
            "modules": 0,
            "learning": 0,
            "parameters": 0,
            "lr": (lr if rule.lr is None else rule.lr) if rule.learns else None,
            "weights": "",
            "checkpointing": rule.checkpointing,
        }
    touched: dict[str, set[str]] = {}
    types: dict[str, dict[bool, dict[str, int]]] = {}
    for name, parameter in model.named_parameters():
        path = own_path(name)
        tower = tower_of(path, family) or SHARED
        row = rows.setdefault(
            tower, {"rule": method, "modules": 0, "learning": 0, "parameters": 0, "lr": lr, "weights": ""}
        )
        size = _count(parameter)
        row["parameters"] += size
        held = types.setdefault(tower, {}).setdefault(parameter.requires_grad, {})
        held[_type(parameter)] = held.get(_type(parameter), 0) + size
        if parameter.requires_grad:
            row["learning"] += size
            touched.setdefault(tower, set()).add(_owner(path))
    for tower, row in rows.items():
        row["modules"] = len(touched.get(tower, ()))
        known = types.get(tower, {})
        held = known.get(False) or known.get(True) or {"": 0}
        row["weights"] = max(held, key=lambda kind: held[kind])
    return rows


def table_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table as lines of text, columns aligned."""
    cells: list[tuple[str, ...]] = [_COLUMNS]
    cells += [(tower, *(_cell(row.get(key)) for key in _COLUMNS[1:])) for tower, row in rows.items()]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_COLUMNS))]
    right = {"modules", "learning", "parameters"}
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(_COLUMNS, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _owner(path: str) -> str:
    """Return the module of the model that a trained tensor belongs to, without an adapter's inner parts."""
    parts = path.split(".")
    for at, part in enumerate(parts):
        if part == "modules_to_save" or "default" in parts[at + 1 : at + 2]:
            return ".".join(parts[:at])
    return ".".join(parts[:-1])


def _count(parameter: Any) -> int:
    """Return the weights in a parameter; 4-bit codes hold two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def _type(parameter: Any) -> str:
    kind = getattr(getattr(parameter, "quant_state", None), "quant_type", None)
    return str(kind or parameter.dtype).removeprefix("torch.")

"""Group balance: counts, label by group, how strongly they hang together, and weights or a draw against it.

Cramér's V is 0 where a label's share is the same in every group and 1 where the group tells the label. It
is given without its bias (Bergsma, A bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean
Statistical Society 42, 2013), with a 95 % interval from a bootstrap over rows (percentiles, seeded).

``mitigate: weight`` gives each row the weight P(group) P(label) / P(group, label), by which group and label
become independent (Kamiran and Calders, Data preprocessing techniques for classification without
discrimination, Knowledge and Information Systems 33, 2012), or, without labels, 1 / (groups * P(group)).
``mitigate: sample`` removes rows at random until each label stands as often in one group as in another; a
label that some group has not at all is left alone and reported. Rows that do not know the group stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from studio.data.findings.copies import NOT_KNOWN
from studio.data.steps._step import Bench, Edit, Outcome, removal, within
from studio.data.steps._weights import by_file, weighed
from studio.errors import ConfigError, unknown
from studio.reweight import balanced, independent
from studio.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which group, which label, and what is done."""

    group: str = field(metadata={"help": "the group, a key of 'groups', accent for instance"})
    label: str = field(default="answer", metadata={"help": "answer, another group, or none"})
    mitigate: Literal["none", "weight", "sample"] = field(
        default="none", metadata={"help": "none reports; weight sets row weights; sample removes rows"}
    )
    bootstrap: int = field(default=1000, metadata={"help": "draws for the interval"})
    max_labels: int = field(default=100, metadata={"help": "with more different labels there is no table"})


def check(settings: Settings) -> None:
    """Refuse numbers that make no table."""
    within(settings, bootstrap=(0, 100_000), max_labels=(2, 10_000))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Report each file's balance, and weigh or draw its rows; splits are balanced each for itself.

    Raises:
        ConfigError: if no row has the group.
    """
    known = sorted({name for sample in samples for name in sample.groups})
    if settings.group not in known:
        raise ConfigError("balance: " + unknown("group", settings.group, known))
    if settings.label not in (*known, "answer", "none"):
        raise ConfigError("balance: " + unknown("label", settings.label, (*known, "answer", "none")))
    files = by_file(samples)
    report: dict[str, Any] = {}
    edits: list[Edit] = []
    bench.log.stage("balance", len(files), "files")
    for number, (file, rows) in enumerate(files.items()):
        draw = np.random.default_rng((bench.seed, number))
        told, more = _of_file(rows, settings, draw)
        report[file.name] = told
        edits += more
        bench.log.advance()
    return Outcome(edits=edits, report=report)


def _of_file(
    rows: Sequence[Sample], settings: Settings, draw: np.random.Generator
) -> tuple[dict[str, Any], list[Edit]]:
    inside = [row for row in rows if row.groups.get(settings.group, "").strip().lower() not in NOT_KNOWN]
    groups = [row.groups[settings.group] for row in inside]
    labels = ["" if settings.label == "none" else _label(row, settings.label) for row in inside]
    names, kinds = sorted(set(groups)), sorted(set(labels))
    report: dict[str, Any] = {
        "rows": len(rows),
        "unknown": len(rows) - len(inside),
        "counts": dict(Counter(groups).most_common()),
    }
    tabled = settings.label != "none" and len(kinds) <= settings.max_labels
    if tabled:
        at = {name: i for i, name in enumerate(names)}, {kind: i for i, kind in enumerate(kinds)}
        cells = np.array([[at[0][g], at[1][k]] for g, k in zip(groups, labels, strict=True)]).reshape(-1, 2)
        table = _table(cells, len(names), len(kinds))
        report["labels"] = {
            name: {kind: int(table[i, j]) for j, kind in enumerate(kinds[:SHOWN])}
            for i, name in enumerate(names)
        }
        low, high = interval(cells, (len(names), len(kinds)), settings.bootstrap, draw)
        report["cramers_v"] = {"value": cramers_v(table), "low": low, "high": high, "n": len(inside)}
    elif settings.label != "none":
        report["labels"] = f"{len(kinds)} different labels, more than max_labels = {settings.max_labels}"
        labels = [""] * len(inside)
    if settings.mitigate == "weight":
        edits = _weighed(inside, groups, labels)
        report["weights"] = {"least": min((e.new.weight for e in edits if e.new), default=1.0),
                             "most": max((e.new.weight for e in edits if e.new), default=1.0)}  # fmt: skip
    elif settings.mitigate == "sample":
        seen = {
            label: {g for g, k in zip(groups, labels, strict=True) if k == label} for label in set(labels)
        }
        lacking = sorted(label for label, own in seen.items() if len(own) < len(names))
        edits = _drawn(inside, groups, labels, settings.group, draw)
        report["left alone"] = lacking[:SHOWN]
    else:
        edits = []
    return report, edits


def _label(row: Sample, label: str) -> str:
    return row.answer.strip() if label == "answer" else row.groups.get(label, "")


def _table(cells: NDArray[Any], groups: int, labels: int) -> NDArray[np.float64]:
    flat = np.bincount(cells[:, 0] * labels + cells[:, 1], minlength=groups * labels)
    return flat.reshape(groups, labels).astype(np.float64)


def cramers_v(table: NDArray[np.float64]) -> float:
    """Return Cramér's V of a table of counts [groups, labels] without its bias, from 0 to 1."""
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    rows, columns = table.shape
    n = float(table.sum())
    if min(rows, columns) < 2 or n < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    square = float(((table - expected) ** 2 / expected).sum()) / n
    plain = max(0.0, square - (rows - 1) * (columns - 1) / (n - 1))
    fewer = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return min(1.0, (plain / fewer) ** 0.5) if fewer > 0 else 0.0


def interval(
    cells: NDArray[Any], shape: tuple[int, int], draws: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of V over bootstrap draws of the rows [n, 2]."""
    if not draws or not len(cells):
        value = cramers_v(_table(cells, *shape)) if len(cells) else 0.0
        return value, value
    table = _table(cells, *shape)
    drawn = draw.multinomial(len(cells), (table / table.sum()).ravel(), size=draws)
    values = [cramers_v(one.reshape(shape).astype(np.float64)) for one in drawn]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _weighed(rows: Sequence[Sample], groups: Sequence[str], labels: Sequence[str]) -> list[Edit]:
    several = len(set(labels)) > 1
    return weighed(rows, independent(groups, labels) if several else balanced(groups))


def _drawn(
    rows: Sequence[Sample], groups: Sequence[str], labels: Sequence[str], name: str, draw: np.random.Generator
) -> list[Edit]:
    """Remove rows at random: in each group as many of a label stay as in the group that has fewest of it."""
    cells: dict[tuple[str, str], list[int]] = {}
    for at, cell in enumerate(zip(groups, labels, strict=True)):
        cells.setdefault(cell, []).append(at)
    edits: dict[int, Edit] = {}
    for label in sorted(set(labels)):
        fewest = min(len(cells.get((group, label), ())) for group in set(groups))
        if not fewest:
            continue
        for group in sorted(set(groups)):
            own = cells.get((group, label), [])
            for at in draw.permutation(len(own))[fewest:]:
                place = own[int(at)]
                why = f"{name} = '{group}' has {len(own)} such rows, another group {fewest}"
                edits[place] = removal(rows[place], why)
    return [edits[at] for at in sorted(edits)]

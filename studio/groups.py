"""Any metric by group of samples: values with intervals, the worst group, and whether the gap is chance.

    found = by_group("exact_match", answers, references, {"accent": accents, "site": sites})
    found.worst, found.gap.value, found.gap.p

Values by group and their difference are those of fairlearn's MetricFrame (Bird et al. 2020, Fairlearn: A
toolkit for assessing and improving fairness in AI, MSR-TR-2020-32); intervals and the p-value are those of
`studio.group_gaps`.
Several columns are crossed: each combination that occurs is a group.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio import plugins
from studio.errors import ConfigError, TriptychError, unknown
from studio.group_gaps import clustered, gap_interval, gap_p_value, part
from studio.intervals import Additive, interval
from studio.scores import Columns, additive, needed
from studio.types import Score

SMALL = 20
"""With fewer members a group's value is uncertain: at n = 20 a share's interval is up to 0.4 wide."""


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """A metric of a group's ``n`` samples; ``note`` is "few", "alone" (one member, no interval), or ""."""

    name: str
    group: Mapping[str, str]
    value: float
    low: float | None
    high: float | None
    n: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The largest group value minus the smallest, its 95 % interval, and the p-value of "no difference"."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """A metric by group; ``worst``, ``best`` and ``gap`` are None with fewer than two groups of two members.

    ``left_out`` samples are of no group; ``overall`` is the score of the others.
    """

    metric: str
    by: tuple[str, ...]
    overall: Score
    left_out: int
    groups: tuple[GroupScore, ...]
    worst: str | None
    best: str | None
    gap: Gap | None
    warnings: tuple[str, ...] = ()


def group_columns(groups: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the named columns of samples' groups [N], "" where a sample has none.

    Raises:
        ConfigError: no sample has a group of that name; the sentence offers the nearest match.
    """
    known = {name for row in groups for name in row}
    if wrong := [name for name in names if name not in known]:
        raise ConfigError(unknown("group", wrong[0], known))
    return {name: [str(row.get(name, "")) for row in groups] for name in names}


def by_group(
    metric: str,
    predictions: Sequence[str],
    references: Sequence[str],
    by: Mapping[str, Sequence[str]],
    seed: int = 0,
    *,
    columns: Columns | None = None,
    clusters: Sequence[Hashable] | None = None,
    small: int = SMALL,
) -> Grouped:
    """Return ``metric`` by group.

    Args:
        metric: one whose score is a function of sums over samples (`studio.scores`).
        predictions: the answers [N].
        references: what they are held against [N].
        by: name -> the samples' values [N]; several are crossed. A sample with an empty one is left out.
        seed: of intervals and permutations.
        columns: what the metric needs beside, name -> [N].
        clusters: what belongs together [N]: a speaker, or a pair.
        small: groups with fewer members are warned of.

    Raises:
        UnknownName: if there is no such metric.
        TriptychError: fairlearn is not installed.
        ValueError: no column, no sample of any group, a metric that tells nothing of single samples, or a
            group whose score is not finite.
    """
    if not by:
        raise ValueError("at least one group must be named")
    module = plugins.load("metrics", metric)
    whole = additive(module, predictions, references, needed(module, metric, columns or {}))
    if whole is None:
        raise ValueError(f"{metric} tells nothing of single samples, so it cannot be told by group")
    known = [all(values) for values in zip(*by.values(), strict=True)]
    rows = [row for row, inside in enumerate(known) if inside]
    if not rows:
        raise ValueError(f"no sample has the group {' and '.join(by)}")
    table = part(whole, np.array(rows))
    keys = [tuple(str(column[row]) for column in by.values()) for row in rows]
    marks = [clusters[row] for row in rows] if clusters is not None else None
    values = _frame(table, by, keys)[0]
    if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
        raise ValueError(
            f"{metric} of the group '{_name(wrong[0])}' is {values[wrong[0]]}, no number to compare"
        )

    members = {name: np.array([at for at, key in enumerate(keys) if key == name]) for name in sorted(values)}
    parts = {
        name: clustered(part(table, own), None if marks is None else [marks[at] for at in own])
        for name, own in members.items()
    }
    ends = {name: interval(parts[name], seed) for name, own in members.items() if len(own) > 1}
    groups = [
        GroupScore(
            name=_name(name),
            group=dict(zip(by, name, strict=True)),
            value=values[name],
            low=ends[name][0] if name in ends else None,
            high=ends[name][1] if name in ends else None,
            n=len(own),
            note="alone" if len(own) == 1 else "few" if len(own) < small else "",
        )
        for name, own in members.items()
    ]
    kept = [name for name in members if name in ends]
    sign = 1 if module.HIGHER_IS_BETTER else -1
    order = sorted(kept, key=lambda name: sign * values[name])
    apart = len(kept) > 1
    low, high = interval(clustered(table, marks), seed)
    return Grouped(
        metric=metric,
        by=tuple(by),
        overall=Score(
            name=metric,
            value=table.observed,
            n=len(rows),
            low=low,
            high=high,
            higher_is_better=sign > 0,
        ),
        left_out=len(predictions) - len(rows),
        groups=tuple(groups),
        worst=_name(order[0]) if apart else None,
        best=_name(order[-1]) if apart else None,
        gap=_gap(table, by, keys, kept, parts, ends, marks, seed) if apart else None,
        warnings=tuple(_warnings(groups, small)),
    )


def _gap(
    table: Additive,
    by: Mapping[str, Any],
    keys: Sequence[tuple[str, ...]],
    kept: Sequence[tuple[str, ...]],
    parts: Mapping[tuple[str, ...], Additive],
    ends: Mapping[tuple[str, ...], tuple[float, float]],
    marks: Sequence[Hashable] | None,
    seed: int,
) -> Gap:
    """Return the gap between the groups that have more than one member."""
    code = {name: at for at, name in enumerate(kept)}
    rows = np.array([at for at, key in enumerate(keys) if key in code])
    inside = part(table, rows)
    low, high = gap_interval([parts[name] for name in kept], [ends[name] for name in kept])
    return Gap(
        value=_frame(inside, by, [keys[row] for row in rows])[1],
        low=low,
        high=high,
        p=gap_p_value(
            inside,
            np.array([code[keys[row]] for row in rows]),
            seed,
            None if marks is None else [marks[row] for row in rows],
        ),
    )


def _frame(
    table: Additive, by: Mapping[str, Any], keys: Sequence[tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], float], float]:
    """Return the score of every group, and the difference of the largest and the smallest, by fairlearn."""
    try:
        from fairlearn.metrics import MetricFrame
    except ModuleNotFoundError as error:
        raise TriptychError(
            f"scores by group need the package '{error.name}'; `pip install 'triptych[fairness]'` brings it"
        ) from None

    def value(y_true: Any, y_pred: Any, row: Any) -> float:
        return part(table, np.asarray(row, dtype=np.int64)).observed

    rows = list(range(len(keys)))
    frame = MetricFrame(
        metrics=value,
        y_true=rows,  # the sums of the rows are known already: what was said and meant is in them
        y_pred=rows,
        sensitive_features={name: [key[at] for key in keys] for at, name in enumerate(by)},
        sample_params={"row": rows},
    )
    present = set(keys)
    found = {
        name: float(score)
        for index, score in frame.by_group.items()
        if (name := index if isinstance(index, tuple) else (index,)) in present
    }
    return found, float(frame.difference(method="between_groups"))


def _name(group: tuple[str, ...]) -> str:
    return " / ".join(group)


def _warnings(groups: Sequence[GroupScore], small: int) -> list[str]:
    alone = [f"'{group.name}'" for group in groups if group.note == "alone"]
    few = [f"'{group.name}' ({group.n})" for group in groups if group.note == "few"]
    told = []
    if alone:
        verb = "has one member and is" if len(alone) == 1 else "have one member each and are"
        told.append(f"{', '.join(alone)} {verb} left out of the worst group and of the gap")
    if few:
        told.append(f"fewer than {small} members, so their values are uncertain: {', '.join(few)}")
    return told

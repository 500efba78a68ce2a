"""Weights by group, so that a group that is rare, or that a model does badly on, counts for more in `sft`.

``how: independent`` makes groups and labels independent (Kamiran and Calders 2012), ``balanced`` lets every
group count the same, ``loss`` lets groups count by what `triptych groups` measured, as group DRO does (Sagawa
et al. 2020, https://arxiv.org/abs/1911.08731). The formulas are in `studio.reweight`. Several groups are
crossed. Measure on rows that no figure is reported on: rows that chose the weights say nothing of the model.

    triptych groups runs/eval --by colour
    triptych run curate data=cloth output=runs/weighed \\
        steps='[{reweight: {by: colour, how: loss, groups: runs/eval/groups.json}}]'
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from studio.data.findings.copies import NOT_KNOWN
from studio.data.steps._step import Bench, Edit, Outcome, within
from studio.data.steps._weights import by_file, weighed
from studio.errors import ConfigError, unknown
from studio.files import sha256_file
from studio.reweight import balanced, by_loss, capped, independent
from studio.types import Sample

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which groups, and what their weights come from."""

    by: tuple[str, ...] = field(metadata={"help": "the groups that are crossed, keys of 'groups'"})
    how: Literal["independent", "balanced", "loss"] = field(
        default="balanced", metadata={"help": "independent of the label, balanced, or by measured loss"}
    )
    label: str = field(default="answer", metadata={"help": "for independent: answer, or another group"})
    groups: Path | None = field(default=None, metadata={"help": "for loss: groups.json of triptych groups"})
    variant: str = field(default="", metadata={"help": "for loss: whose; needed where there are several"})
    domain: str = field(default="", metadata={"help": "for loss: on what; needed where there are several"})
    metric: str = field(default="", metadata={"help": "for loss: by what; needed where there are several"})
    strength: float = field(default=2.0, metadata={"help": "for loss: 0 balances the groups"})
    most: float = field(default=20.0, metadata={"help": "the largest weight, in units of the mean one"})


def check(settings: Settings) -> None:
    """Refuse numbers out of range, and a loss without its file."""
    within(settings, strength=(0, 100), most=(1, math.inf))
    if not settings.by:
        raise ConfigError("by must name at least one group")
    if (settings.how == "loss") != (settings.groups is not None):
        raise ConfigError("groups must be given with how: loss, and only there")


def inputs(settings: Settings) -> Mapping[str, str]:
    """Return the hash of the measured figures."""
    return {"groups": sha256_file(settings.groups)} if settings.groups and settings.groups.is_file() else {}


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Weigh the rows of every file by itself; rows that do not know their group stay as they are.

    Raises:
        ConfigError: no row has a group of that name, or the file of figures lacks one of the groups.
    """
    known = sorted({name for sample in samples for name in sample.groups})
    for name in settings.by:
        if name not in known:
            raise ConfigError("reweight: " + unknown("group", name, known))
    if settings.how == "independent" and settings.label not in (*known, "answer"):
        raise ConfigError("reweight: " + unknown("label", settings.label, (*known, "answer")))
    losses = _losses(settings) if settings.groups else {}
    files = by_file(samples)
    report: dict[str, Any] = {}
    edits: list[Edit] = []
    bench.log.stage("reweight", len(files), "files")
    for file, rows in files.items():
        told, more = _of_file(rows, settings, losses)
        report[file.name] = told
        edits += more
        bench.log.advance()
    return Outcome(edits=edits, report=report)


def _of_file(
    rows: Sequence[Sample], settings: Settings, losses: Mapping[Key, float]
) -> tuple[dict[str, Any], list[Edit]]:
    keys = [tuple(row.groups.get(name, "") for name in settings.by) for row in rows]
    inside = [at for at, key in enumerate(keys) if not any(v.strip().lower() in NOT_KNOWN for v in key)]
    picked, groups = [rows[at] for at in inside], [keys[at] for at in inside]
    report: dict[str, Any] = {"rows": len(rows), "unknown": len(rows) - len(inside)}
    if not inside:
        return report, []
    if settings.how == "independent":
        answers = settings.label == "answer"
        labels = [row.answer.strip() if answers else row.groups.get(settings.label, "") for row in picked]
        factors = independent(groups, labels)
    elif settings.how == "balanced":
        factors = balanced(groups)
    else:
        if lacking := [group for group in groups if group not in losses]:
            names = [" / ".join(key) for key in losses]
            raise ConfigError(f"{settings.groups}: {unknown('group', ' / '.join(lacking[0]), names)}")
        factors = by_loss(groups, losses, settings.strength)
    factors = capped(factors, settings.most)
    total: Counter[Key] = Counter()
    for group, factor in zip(groups, factors, strict=True):
        total[group] += factor  # type: ignore[assignment]
    report["groups"] = {
        " / ".join(group): {"rows": count, "weight": round(total[group] / count, 6)}
        for group, count in sorted(Counter(groups).items())
    }
    return report, weighed(picked, factors)


def _losses(settings: Settings) -> dict[Key, float]:
    """Return what every group loses: 1 minus its score where higher is better, else the score itself.

    Raises:
        ConfigError: no such file, or not exactly one table that fits.
    """
    file = settings.groups
    assert file is not None
    try:
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        found = [
            result
            for result in results
            if result["by"] == list(settings.by)
            and all(getattr(settings, name) in ("", result[name]) for name in ("variant", "domain", "metric"))
        ]
        if len(found) == 1:
            [one] = found
            values = {
                tuple(group["group"][name] for name in settings.by): one["overall"]["value"]
                if group["note"] == "alone"  # one sample's value says nothing of its group
                else group["value"]
                for group in one["groups"]
            }
            return {key: 1 - value if one["higher_is_better"] else value for key, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: no figures by group ({type(error).__name__}); `triptych groups` writes them"
        ) from None
    wanted = ", ".join(settings.by)
    if not found:
        raise ConfigError(
            f"{file}: no figures by {wanted} that fit; `triptych groups --by {wanted}` writes them"
        )
    told = sorted({f"{r['domain']}.{r['metric']} of {r['variant']}" for r in found})
    raise ConfigError(f"{file}: variant, domain and metric must choose one of: {'; '.join(told)}")

"""What a sweep has found: a table, JSON, and a picture of the best so far and of every setting."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from studio.chart import Chart, Line
from studio.chart_picture import picture
from studio.files import atomic_write

#: Charts of settings in the picture, and rows of the table.
CHARTS, ROWS = 6, 20
#: Numbers of a setting whose ratio is at least this are drawn by ratios.
RATIO = 20


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ended with a finite value."""
    found = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return [trial for trial in found if trial.value is not None and math.isfinite(trial.value)]


def best_of(study: optuna.Study, maximise: bool) -> FrozenTrial | None:
    """Return the best trial; the first of equals, and None if there is none."""
    order = sorted(complete(study), key=lambda trial: -_value(trial) if maximise else _value(trial))
    return order[0] if order else None


def rows_of(study: optuna.Study, maximise: bool) -> list[str]:
    """Return the table of the trials, the best first, as lines of text."""
    ended = sorted(complete(study), key=lambda trial: -_value(trial) if maximise else _value(trial))
    others = [trial for trial in study.trials if trial not in ended]
    trials = [*ended, *others][:ROWS]
    names = list(dict.fromkeys(name for trial in trials for name in trial.user_attrs.get("chosen", {})))
    table = [("trial", "value", *names, "state")]
    for trial in trials:
        chosen = trial.user_attrs.get("chosen", {})
        value = f"{trial.value:.5g}" if trial.value is not None else "-"
        cells = (_cell(chosen.get(name)) for name in names)
        table.append((str(trial.number + 1), value, *cells, trial.state.name.lower()))
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return lines + ([f"and {len(study.trials) - ROWS} more"] if len(study.trials) > ROWS else [])


def write_result(study: optuna.Study, folder: Path, maximise: bool) -> None:
    """Write ``sweep.json`` and ``sweep.png``."""
    best = best_of(study, maximise)
    told = {
        "best": _told(best) if best is not None else None,
        "trials": [_told(trial) for trial in study.get_trials(deepcopy=False)],
    }
    atomic_write(folder / "sweep.json", json.dumps(told, indent=2) + "\n")
    atomic_write(folder / "sweep.png", picture(charts(study, maximise)))


def charts(study: optuna.Study, maximise: bool) -> list[Chart]:
    """Return the best value by trial, and the values over each setting that is a number."""
    ended = sorted(complete(study), key=lambda trial: trial.number)
    points = [(trial.number + 1.0, _value(trial)) for trial in ended]
    better = max if maximise else min
    best = list(accumulate((value for _, value in points), better))
    steps = [(trial, value) for (trial, _), value in zip(points, best, strict=True)]
    pruned = sum(trial.state == TrialState.PRUNED for trial in study.trials)
    drawn = [
        Chart(
            title="Trials",
            note=f"{len(points)} ended, {pruned} pruned",
            x="trial",
            y="value",
            lines=[
                Line(name="trial", points=points, dots=True),
                Line(name="best so far", points=steps),
            ],
        )
    ]
    names = list(dict.fromkeys(name for trial in ended for name in trial.user_attrs["chosen"]))
    for name in names:
        pairs = [(_number(t.user_attrs["chosen"].get(name)), _value(t)) for t in ended]
        numbers = [(x, y) for x, y in pairs if x is not None]
        if numbers and len(numbers) == len(pairs):
            low, high = min(x for x, _ in numbers), max(x for x, _ in numbers)
            log = low > 0 and high / low >= RATIO
            line = Line(name=name, points=numbers, dots=True)
            drawn.append(Chart(title=name, x=name, y="value", lines=[line], log_x=log))
    return drawn[: CHARTS + 1]


def _told(trial: FrozenTrial) -> dict[str, Any]:
    own = trial.user_attrs
    return {
        "trial": trial.number + 1,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **{key: own.get(key) for key in ("chosen", "folder", "metrics", "seconds", "why")},
        "evaluations": {str(step): value for step, value in trial.intermediate_values.items()},
    }


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _number(value: Any) -> float | None:
    """Return what a setting's value is as a number; text may spell one, a switch is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

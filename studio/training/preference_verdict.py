"""Whether a run that learned preferences meets held-out ones better than before, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.chart import Chart, Line
from studio.scores import wilson
from studio.training.verdict import STEPS, running_mean

#: Points by which training rows may be met better than held-out ones before it is called overfitting.
APART = 0.10
_WHAT = {
    "ranking": "it finds the chosen answer likelier than the rejected one in {value}",
    "accuracy": "it tells good answers from bad ones in {value}",
}


def before_and_after(rows: Sequence[Mapping[str, Any]], best: int, count: int) -> dict[str, float]:
    """Return the figures on ``count`` held-out preferences after step ``best``, and those before the first.

    ``rows`` are those of the run's metrics.
    """
    found = {row["step"]: row for row in rows if "eval_loss" in row}
    after, before = found.get(best, {}), found.get(0, {})
    figures = {key: float(value) for key, value in after.items() if key.startswith("eval_")}
    figures |= {
        f"{key}_before": float(before[key]) for key in ("eval_accuracy", "eval_ranking") if key in before
    }
    return figures | {"eval_preferences": float(count)}


def told(metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return sentences about a run's figures and the ``rows`` of its metrics; empty for another kind of run.

    A change counts where the 95 % intervals before and after do not overlap.
    """
    name = next(
        (name for name in _WHAT if f"eval_{name}_before" in metrics and f"eval_{name}" in metrics), ""
    )
    if not name:
        return ""
    count = int(metrics["eval_preferences"])
    before, after = metrics[f"eval_{name}_before"], metrics[f"eval_{name}"]
    ((low, high), (low_before, high_before)) = (
        wilson(round(value * count), count) for value in (after, before)
    )
    points = 100 * (after - before)
    if low > high_before:
        change = f"preference accuracy rose by {points:.1f} points"
    elif high < low_before:
        change = f"preference accuracy fell by {-points:.1f} points"
    else:
        change = "that is no certain change: more votes, or more steps, may tell"
    value = f"{100 * after:.1f} % (95 % interval {100 * low:.0f}-{100 * high:.0f})"
    met = _WHAT[name].format(value=value)
    was = f"before it was {100 * before:.1f} % ({100 * low_before:.0f}-{100 * high_before:.0f})"
    return f"Of {count} held-out preferences {met}, {was}: {change}. {_fit(rows, name, after)}".strip()


def _fit(rows: Sequence[Mapping[str, Any]], name: str, held: float) -> str:
    """Return whether what was learned from is met much better than what was held out."""
    seen = [float(row[name]) for row in rows if name in row]
    last = seen[-max(1, len(seen) // 5) :]
    if len(seen) < STEPS:
        return ""
    trained = sum(last) / len(last)
    there = f"of those that it learned from at the end it was {100 * trained:.1f} %"
    if trained - held > APART:
        return f"It overfits: {there}; fewer epochs, more votes or a larger preference.sft may help."
    return f"It does not overfit: {there}."


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the curves of rewards and of preference accuracy; none for another kind of run."""
    if not any("margin" in row for row in rows):
        return []

    def line(name: str, key: str, colour: int, *, smooth: bool = True) -> Line:
        points = [(float(row["step"]), float(row[key])) for row in rows if key in row]
        return Line(
            name=name,
            points=running_mean(points, max(1, len(points) // 20)) if smooth else points,
            colour=colour,
        )

    met = "ranking" if any("ranking" in row for row in rows) else "accuracy"
    return [
        Chart(
            title="Preference accuracy",
            x="step",
            y="share",
            lines=[line("training", met, 0), line("held out", f"eval_{met}", 1, smooth=False)],
            note="share of preferences that the model meets",
        ),
        Chart(
            title="Rewards",
            x="step",
            y="reward",
            lines=[line("chosen", "rewards_chosen", 0), line("rejected", "rewards_rejected", 1)],
            note="training rows, smoothed",
        ),
    ]

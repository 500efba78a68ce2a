"""Whether a run overfits, underfits or fits, in one plain sentence with its reasons, from its curves.

The training loss is smoothed over a twentieth of the run. Changes count as changes when they are more than
`CHANGE` of the value they start from *and* more than `SLIGHT` of the loss that the run began with, so neither
noise nor the last digits of a loss near 0 decide. The first rule that holds:

    unclear     fewer than `STEPS` steps
    unstable    the training loss ended higher than its lowest, by more than half of what it had fallen
    underfits   the training loss fell by less than a tenth in the whole run: hardly anything was learned
    overfits    the held-out loss ended higher than its lowest, while the training loss did not rise
    underfits   the held-out loss (the training loss, without held-out rows) still fell in the last third
    fits        the held-out loss has levelled out near its lowest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Kind = Literal["unclear", "unstable", "underfits", "overfits", "fits"]
Points = Sequence[tuple[float, float]]

STEPS, CHANGE, SLIGHT, LEARNED = 8, 0.05, 0.005, 0.1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run's curves say: one word, and a sentence with the figures and what may help."""

    kind: Kind
    sentence: str


def judge(rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Return the verdict on the rows of a run's ``metrics.jsonl``."""
    train = [(float(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
    held = [(float(row["step"]), float(row["eval_loss"])) for row in rows if "eval_loss" in row]
    if len(train) < STEPS:
        return Verdict(kind="unclear", sentence=f"{len(train)} steps are too few to tell how it fits.")
    first = median(value for _, value in train[:5])  # one step alone is noise, and many have learned already
    train = running_mean(train, max(1, len(train) // 20))
    last = train[-1][1]
    low_step, low = min(train, key=lambda point: point[1])
    if _changed(low, last, first) and last - low > 0.5 * (first - low):
        return Verdict(
            kind="unstable",
            sentence=f"The training loss was {low:.3g} at step {low_step:.0f} and ended at {last:.3g}: a "
            "lower lr, a longer warm-up or a smaller optimiser.clip may help.",
        )
    if first - last < LEARNED * first:
        return Verdict(
            kind="underfits",
            sentence=f"It hardly learned: the training loss went from {first:.3g} to {last:.3g}. A higher "
            "lr, more of the model (towers, adapter.r) or more steps may help.",
        )
    if held:
        return _held_out(train, held, first)
    if _still_falling(train, first):
        return Verdict(
            kind="underfits",
            sentence=f"The training loss was still falling when it ended, at {last:.3g}: more steps may "
            "help. Whether it overfits nobody can tell without held-out rows (eval_data).",
        )
    return Verdict(
        kind="unclear",
        sentence=f"The training loss levelled out at {last:.3g}. Whether it overfits nobody can tell without "
        "held-out rows (eval_data).",
    )


def _held_out(train: Points, held: Points, first: float) -> Verdict:
    """Judge by the held-out loss."""
    (best_step, best), (_, end), last = min(held, key=lambda point: point[1]), held[-1], train[-1][1]
    then = min(train, key=lambda point: abs(point[0] - best_step))[1]
    if _changed(best, end, first) and not _changed(then, last, first):
        return Verdict(
            kind="overfits",
            sentence=f"The held-out loss was lowest at step {best_step:.0f} ({best:.3g}) and rose to "
            f"{end:.3g} while the training loss went from {then:.3g} to {last:.3g}. What is kept is from "
            f"step {best_step:.0f}; fewer epochs, more or augmented data, dropout or a smaller adapter.r may "
            "help.",
        )
    if _still_falling([(0.0, first), *held] if len(held) < 3 else held, first):
        return Verdict(
            kind="underfits",
            sentence=f"The held-out loss was still falling when it ended, at {end:.3g} (training "
            f"{last:.3g}): "
            "more epochs or a higher lr may help.",
        )
    gap = end - last
    apart = (
        f" It stands {gap:.3g} above the training loss: more or augmented data would help more than steps."
        if _changed(last, end, first) and end > 2 * last
        else ""
    )
    return Verdict(
        kind="fits",
        sentence=f"The held-out loss levelled out at {end:.3g}, near its lowest ({best:.3g} at step "
        f"{best_step:.0f}; training {last:.3g}).{apart}",
    )


def running_mean(points: Points, width: int) -> list[tuple[float, float]]:
    """Return the points with the mean of the last ``width`` values each; fewer at the start."""
    values = [value for _, value in points]
    return [
        (step, sum(values[max(0, at - width + 1) : at + 1]) / min(width, at + 1))
        for at, (step, _) in enumerate(points)
    ]


def _still_falling(points: Points, first: float) -> bool:
    """Say whether the values fell from two thirds of the run to its end."""
    begin, end = points[0][0], points[-1][0]
    since = begin + 2 * (end - begin) / 3
    before = [value for step, value in points if step <= since]
    return _changed(points[-1][1], before[-1], first)


def _changed(low: float, high: float, first: float) -> bool:
    """Say whether ``high`` is above ``low`` by more than noise and last digits."""
    return high - low > CHANGE * high and high - low > SLIGHT * first

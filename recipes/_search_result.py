"""What a search has tried: the front, the best, and the files that tell of all candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from recipes._search_bench import Objective, Values
from recipes._search_space import Candidate
from studio.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a candidate; ``values`` are its scores by domain, divided by the experts'."""

    number: int
    state: str
    candidate: Candidate
    values: Values
    why: str = ""
    seconds: float = 0.0
    merge_seconds: float = 0.0

    def line(self, objectives: Sequence[Objective]) -> str:
        """Return it as one line of text."""
        if self.state == "failed":
            return f"failed ({self.candidate.method}: {self.why})"
        told = ", ".join(f"{o.score} {o.what} {o.value(self.values):.3f}" for o in objectives)
        return f"{self.state}, {told} in {self.seconds:.1f} s ({words(self.candidate)})"

    def told(self, objectives: Sequence[Objective]) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "trial": self.number,
            "state": self.state,
            "objectives": {f"{o.score}.{o.what}": o.value(self.values) for o in objectives if self.values},
            "values": self.values,
            **self.candidate.told(),
            "why": self.why,
            "seconds": self.seconds,
            "merge_seconds": self.merge_seconds,
        }


def study_found(study: optuna.Study) -> list[Found]:
    """Return what is known of all candidates."""
    return [found_of(trial) for trial in study.get_trials(deepcopy=False)]


def found_of(trial: FrozenTrial) -> Found:
    """Return what is known of a candidate."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    attributes = trial.user_attrs
    return Found(
        number=trial.number + 1,
        state=states.get(trial.state, "running"),
        candidate=Candidate(**json.loads(json.dumps(attributes.get("candidate") or {"method": ""}))),
        values=attributes.get("values") or {},
        why=attributes.get("why", ""),
        seconds=attributes.get("seconds", 0.0),
        merge_seconds=attributes.get("merge_seconds", 0.0),
    )


def words(candidate: Candidate) -> str:
    """Return a candidate in words: method, settings, and weights rounded to two places."""
    parts = [candidate.method]
    parts += [f"{key} {_short(value)}" for key, value in candidate.settings.items()]
    for group, own in candidate.own.items():
        parts += [f"{key} {_short(value)} in {group}" for key, value in own.items()]
    for group, weights in candidate.weights.items():
        where = f" in {group}" if group else ""
        parts.append(f"weights{where} " + "/".join(f"{weight:.2f}" for weight in weights))
    return ", ".join(parts)


def front_of(every: Sequence[Found], objectives: Sequence[Objective]) -> list[Found]:
    """Return the candidates that no other surpasses in all objectives, the best in the first one first."""
    ended = [each for each in every if each.state == "complete"]
    points = {each.number: tuple(o.value(each.values) for o in objectives) for each in ended}
    front: dict[tuple[float, ...], Found] = {}
    for each in ended:
        mine = points[each.number]
        if not any(surpasses(other, mine) for other in points.values()):
            front.setdefault(mine, each)  # the first of equals
    return [front[point] for point in sorted(front, reverse=True)]


def surpasses(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether a point is at least as good in everything, and better in something."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def chosen(every: Sequence[Found], objectives: Sequence[Objective]) -> Found | None:
    """Return the candidate of the front whose objectives are largest together; None if none ended."""
    front = front_of(every, objectives)
    return max(front, key=lambda each: sum(o.value(each.values) for o in objectives), default=None)


def write_search(
    folder: Path,
    every: Sequence[Found],
    objectives: Sequence[Objective],
    *,
    state: str,
    best: Found | None = None,
    front: Sequence[Found] = (),
) -> None:
    """Write search.json; its ``state`` is "partial" until the budget is spent."""
    told: Mapping[str, Any] = {
        "state": state,
        "objectives": [f"{o.score}.{o.what}" for o in objectives],
        "best": best.number if best else None,
        "front": [each.number for each in front],
        "trials": [each.told(objectives) for each in every],
    }
    atomic_write(folder / "search.json", json.dumps(told, indent=1) + "\n")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

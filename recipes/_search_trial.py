"""One candidate of a search: merged, measured, perhaps given up early; here or in another process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna

from recipes._search_bench import Bench, Objective, Setting, Values
from recipes._search_space import Candidate
from studio.errors import TriptychError

#: Candidates that are measured whole before any is given up.
STARTUP = 8
#: The bench of this process, where another one leads the search.
_BENCHES: list[Bench] = []


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a candidate: failed ones say ``why``; ``values`` of pruned ones are of a few rows."""

    state: Literal["complete", "pruned", "failed"]
    values: Values
    why: str = ""
    merge_seconds: float = 0.0
    seconds: float = 0.0


def pruner() -> optuna.pruners.BasePruner:
    """Return what gives candidates up: those that half of the others surpass on the same first rows."""
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP)


def try_on(
    bench: Bench, candidate: Candidate, trial: optuna.Trial, objectives: Sequence[Objective], prune: bool
) -> Tried:
    """Merge a candidate and measure it; one that cannot be merged is a failed trial and no error."""
    began = time.monotonic()
    some: Values = {}

    def early(values: Values) -> bool:
        some.update(values)
        if not prune:
            return False
        # A trial that goes on after a kill may report once more.
        if 1 not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(objectives[0].value(values), 1)
        return trial.should_prune()

    try:
        deltas = bench.merge(candidate)
        merged = time.monotonic() - began
        values = bench.measure(deltas, early)
    except TriptychError as error:
        return Tried(state="failed", values={}, why=str(error), seconds=time.monotonic() - began)
    return Tried(
        state="complete" if values is not None else "pruned",
        values=values if values is not None else some,
        merge_seconds=merged,
        seconds=time.monotonic() - began,
    )


def set_up(setting: Setting) -> None:
    """Make this process's bench."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _BENCHES[:] = [Bench(setting)]


def try_apart(
    candidate: Candidate, objectives: Sequence[Objective], prune: bool, storage: str, study: str, trial: int
) -> Tried:
    """Try a candidate on this process's bench; the study is led by another process."""
    known = optuna.load_study(study_name=study, storage=storage, pruner=pruner())
    return try_on(_BENCHES[0], candidate, optuna.Trial(known, trial), objectives, prune)

"""Search settings: many runs of a recipe, by grid, at random or by TPE; poor ones are cut short.

    triptych run sft data=textiles eval_data=textiles lr=1e-4,2e-4,5e-4 adapter.r=8,16 output=runs/grid
    triptych run sweep settings.data=textiles settings.eval_data=textiles trials=20 \\
        space.lr='{low: 1e-5, high: 1e-2, log: true}' space.adapter.r='[4, 8, 16]'

TPE is the tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS, section 4) of Optuna, whose study
is kept in `output`/sweep.db or any `storage` that SQLAlchemy knows. A trial whose evaluation is worse than
the median of the earlier ones at the same step is pruned. Kill a sweep at any moment: the same command goes
on, the trial that was running included, and without `parallel` it finds what it would have found. The folder
`output` gets sweep.json (all trials), sweep.png, and a run for each trial in trials/.
"""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from recipes._space import InOrder, read_space
from recipes._study import a_study, own, side_by_side, study_name, unfinished
from recipes._sweep_result import best_of, rows_of, write_result
from recipes._trials import Job, Outcome, folder_of, nested, pruner, try_apart, try_out
from studio import plugins
from studio.config import to_dict
from studio.errors import ConfigError
from studio.log import Log
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.seed import derive
from studio.types import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to search, and how."""

    recipe: str = field(default="sft", metadata={"help": "the recipe that a trial runs"})
    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its settings in all trials (settings.data=textiles)"}
    )
    space: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "settings to search: lists, or {low: , high: , log: , step: }"},
    )
    search: Literal["tpe", "random", "grid"] = field(
        default="tpe", metadata={"help": "how settings are chosen; grid: all combinations of lists"}
    )
    trials: int = field(default=20, metadata={"help": "how many runs; a grid has as many as it has"})
    metric: str | None = field(
        default=None, metadata={"help": "what to judge by; none: eval_loss, or else loss"}
    )
    maximise: bool = field(default=False, metadata={"help": "whether more of the metric is better"})
    prune: bool = field(default=True, metadata={"help": "cut runs short that evaluations show to be poor"})
    parallel: int = field(default=1, metadata={"help": "trials at the same time, each in a process"})
    storage: str | None = field(
        default=None, metadata={"help": "where the study is kept: a URL; none: output/sweep.db"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the search"})
    output: Path = field(default=Path("runs/sweep"), metadata={"help": "folder for the trials"})
    resume: bool | None = field(default=None, metadata={"help": "go on with a sweep; none: if possible"})


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "output": "runs/sweep-smoke",
        "settings": {"max_steps": 3, "batch_size": 4},
        "space": {"lr": [1e-3, 1e-4]},
        "search": "grid",
    },
}

#: Settings that do not change what a trial computes: with others the same sweep goes on.
APART = ("output", "trials", "parallel", "storage", "resume")


def run(config: Config, log: Log) -> Run:
    """Run the trials that are still to be run, and write what they say.

    Raises `TriptychError` for a mistake in the settings of the sweep or of a trial, and if no trial ended.
    """
    check(config)
    space = read_space(config.space)
    grid = InOrder(space) if config.search == "grid" else None
    count = len(grid.combinations) if grid else config.trials

    record = new_record("sweep", to_dict(config), {}, apart=APART)
    old = find_same(config.output, record, config.resume, apart=APART)
    begin_run(config.output, record, fresh=old is None)
    study = open_study(config, record.fingerprint)
    left = unfinished(study)
    if study.trials:
        log.say(f"going on: {len(study.trials) - len(left)} of {count} trials are done")

    # Trials: those that a kill left come first. The search is seeded by the trial's number, so that what it
    # proposes is a function of the trials before, and not of how often it was interrupted.
    def sampler(number: int) -> optuna.samplers.BaseSampler:
        seed = derive(config.seed, "sweep", number) % 2**32
        if config.search == "tpe":
            first = max(3, min(10, count // 3))  # drawn at random
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
        return grid or optuna.samplers.RandomSampler(seed=seed)

    def next_job() -> tuple[optuna.Trial, Job] | None:
        done = len(study.trials)
        if not left and done >= count:
            return None
        study.sampler = sampler(left[0].number if left else done)
        trial = optuna.Trial(study, left.pop(0)._trial_id) if left else study.ask()
        own(trial)
        chosen = {name: values.draw(trial, name) for name, values in space.items()}
        folder = folder_of(config.output, chosen)
        trial.set_user_attr("chosen", chosen)
        trial.set_user_attr("folder", folder.relative_to(config.output).as_posix())
        settings = nested(chosen, config.settings) | {"output": str(folder)}
        title = f"trial {trial.number + 1} of {count}"
        return trial, Job(
            recipe=config.recipe, settings=settings, title=title, metric=config.metric,
            prune=config.prune and config.search != "grid",
        )  # fmt: skip

    def finished(trial: optuna.Trial, outcome: Outcome) -> None:
        settle(study, trial, outcome, config.metric)
        chosen = ", ".join(f"{key}={value}" for key, value in trial.user_attrs["chosen"].items())
        value = study.trials[trial.number].value
        told = outcome.state if value is None else f"{value:.4g}"
        log.say(f"trial {trial.number + 1} of {count}: {told} in {outcome.seconds:.1f} s ({chosen})")
        write_result(study, config.output, config.maximise)
        if outcome.state == "wrong":
            raise ConfigError(f"trial {trial.number + 1} ({chosen}): {outcome.why}")

    if config.parallel == 1:
        while (made := next_job()) is not None:
            finished(made[0], try_out(made[1], made[0], log))
    else:
        place = storage_url(config), study.study_name

        def apart(pool: ProcessPoolExecutor, trial: optuna.Trial, job: Job) -> Future[Outcome]:
            return pool.submit(try_apart, job, *place, trial._trial_id)

        side_by_side(config.parallel, count, next_job, apart, finished, log)

    best = best_of(study, config.maximise)
    if best is None:
        raise ConfigError(f"none of {len(study.trials)} trials ended; see {config.output / 'sweep.json'}")
    for line in rows_of(study, config.maximise):
        log.say(line)
    states = [trial.state for trial in study.trials]
    figures = {
        "trials": float(len(states)),
        "pruned": float(states.count(TrialState.PRUNED)),
        "failed": float(states.count(TrialState.FAIL)),
        "best": float(best.value or 0.0),
        "best_trial": float(best.number + 1),
    }
    write_run(config.output, dataclasses.replace(record, state="finished", metrics=figures))
    log.say(f"the best: {config.output / best.user_attrs['folder']}; see {config.output / 'sweep.png'}")
    return Run(folder=config.output, metrics=figures)


def check(config: Config) -> None:
    """Raise `ConfigError` for settings out of range; the recipe's own are checked by itself."""
    wrong = [
        f"{n} must be more than 0, not {v}" for n in ("trials", "parallel") if (v := getattr(config, n)) < 1
    ]
    if not config.space:
        wrong.append("space must name at least one setting to search, as in space.lr='[1e-4, 1e-3]'")
    if "output" in config.settings:
        wrong.append("settings.output is the sweep's to choose; give output")
    if wrong:
        raise ConfigError("; ".join(wrong))
    plugins.canonical("recipes", config.recipe)


def open_study(config: Config, fingerprint: str) -> optuna.Study:
    """Return the sweep's study, new or as it was left."""
    if config.resume is False:
        shutil.rmtree(config.output / "trials", ignore_errors=True)
    return a_study(
        storage_url(config), study_name(fingerprint), ["maximize" if config.maximise else "minimize"],
        pruner(), fresh=config.resume is False,
    )  # fmt: skip


def storage_url(config: Config) -> str:
    """Return where the study is kept."""
    return config.storage or f"sqlite:///{(config.output / 'sweep.db').resolve()}"


def settle(study: optuna.Study, trial: optuna.Trial, outcome: Outcome, metric: str | None) -> None:
    """Tell the study what came of a trial.

    Raises:
        ConfigError: if the recipe does not report the metric.
    """
    trial.set_user_attr("metrics", dict(outcome.metrics))
    trial.set_user_attr("seconds", outcome.seconds)
    trial.set_user_attr("why", outcome.why)
    if outcome.state == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    elif outcome.state != "complete":
        study.tell(trial, state=TrialState.FAIL)
    else:
        name = metric or ("eval_loss" if "eval_loss" in outcome.metrics else "loss")
        if name not in outcome.metrics:
            study.tell(trial, state=TrialState.FAIL)
            known = ", ".join(outcome.metrics) or "nothing"
            raise ConfigError(f"metric: a trial does not report '{name}'; it reports {known}")
        study.tell(trial, outcome.metrics[name])

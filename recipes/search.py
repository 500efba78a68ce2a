"""Search a merge: methods, weights of experts and settings, by TPE or CMA-ES, and report what was found.

    triptych run search experts.textiles=runs/textiles experts.commands=runs/commands
    triptych run search --config experts.yaml groups='[towers]' search=cmaes trials=200 parallel=4
    triptych merge runs/search/merge.yaml -o runs/best

Candidates are merged in memory and asked rows of every domain in one pass each; a score is divided by what
the domain's expert has there, and objectives are the mean over the domains, the worst, or single domains:
several make a Pareto front. TPE is the tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS,
section 4), CMA-ES the evolution strategy of Hansen (2016, arXiv:1604.00772); both are Optuna's. A candidate
that half of the others surpass on the first quarter of the rows is given up. Kill a search at any moment: the
same command goes on. What is reported is asked once, at the end, of rows that the search has not seen, beside
the experts, the base, their plain average, and the best that PEFT and mergekit make of the same experts.

The folder `output` gets merge.yaml, adapter/, front/ (a merge file for each point of the front), search.json
(all candidates), report.json, front.png, report.html and README.md. A method that asks for rows, as distil
does, has no merge file: merge.distil.yaml holds settings for `triptych run distil --config`.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from recipes._search_bench import FINE, Bench, Objective, Setting, check_score, read_objectives
from recipes._search_experts import Against, find_experts, hash_of, several_tasks
from recipes._search_makers import MAKERS
from recipes._search_page import write_search_card
from recipes._search_report import report
from recipes._search_result import chosen, found_of, front_of, study_found, write_search
from recipes._search_rows import Rows, take_rows
from recipes._search_space import Candidate, Space
from recipes._search_trial import Tried, pruner, set_up, try_apart, try_on
from recipes._study import a_study, own, side_by_side, study_name, unfinished
from studio import plugins
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.config import to_dict
from studio.errors import ConfigError
from studio.log import Log
from studio.runs import begin_run, find_same, new_record, write_run
from studio.training.seed import derive
from studio.types import Run

#: What is searched without a word: methods that weigh experts against each other, of every kind.
METHODS = ("task_arithmetic", "ties", "dare_ties", "breadcrumbs", "tsv_m", "wudi")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to merge, what to try, and what to judge by."""

    model: str = field(default="nano-omni", metadata={"help": "the base that all experts stand on"})
    experts: dict[str, str | None] = field(
        default_factory=dict,
        metadata={"help": "domain: adapter or run folder; none: trained here as `training` says"},
    )
    data: dict[str, str] = field(
        default_factory=dict, metadata={"help": "domain: rows; the shipped ones of that name if left out"}
    )
    rows: Rows = field(default_factory=Rows, metadata={"help": "how many rows, and of which split"})
    methods: tuple[str, ...] = field(default=METHODS, metadata={"help": "merge methods to try; also distil"})
    space: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "ranges in place of the methods' own: weight, density, ties.elect ..."},
    )
    groups: tuple[str, ...] = field(
        default=(), metadata={"help": "parts with weights of their own: towers, vision, llm.layers.0-3"}
    )
    by_group: tuple[str, ...] = field(
        default=(), metadata={"help": "settings that each part has for itself, such as density"}
    )
    search: Literal["tpe", "cmaes", "random"] = field(
        default="tpe", metadata={"help": "how candidates are chosen; cmaes takes one objective"}
    )
    objectives: tuple[str, ...] = field(
        default=("mean",), metadata={"help": "mean, worst, domains, a domain; also SCORE.mean and so on"}
    )
    score: str = field(
        default="likelihood", metadata={"help": "exact, tokens, likelihood, or a metric of generated answers"}
    )
    metric: str = field(default="exact_match", metadata={"help": "what the report measures of answers"})
    trials: int = field(default=60, metadata={"help": "how many candidates"})
    seconds: float | None = field(
        default=None, metadata={"help": "begin none after so many seconds of trying"}
    )
    parallel: int = field(default=1, metadata={"help": "candidates at the same time, each in a process"})
    prune: bool = field(default=True, metadata={"help": "give up on hopeless candidates after some rows"})
    baselines: Against = field(default_factory=Against, metadata={"help": "what else is reported"})
    training: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of sft for what is trained here"}
    )
    batch_size: int = field(default=32, metadata={"help": "rows computed together"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest answer in the report"})
    device: str = field(default="cpu", metadata={"help": "where candidates are asked: cpu, cuda, cuda:1"})
    storage: str | None = field(
        default=None, metadata={"help": "where the study is kept: a URL; none: output/search.db"}
    )
    seed: int = field(default=0, metadata={"help": "seed of rows, search, and random merges"})
    output: Path = field(default=Path("runs/search"), metadata={"help": "the run's folder"})
    resume: bool | None = field(default=None, metadata={"help": "go on with a search; none: if possible"})


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "output": "runs/search-smoke",
        "experts": {"textiles": None, "handwriting": None},
        "training": {
            "max_steps": 3,
            "batch_size": 4,
            "lr": 3e-3,
            "adapter": {"r": 4},
            "speed": {"tower_cache": False},
        },
        "rows": {"search": 2, "report": 2, "fit": 0},
        "methods": ["task_arithmetic", "ties"],
        "trials": 2,
        "max_new_tokens": 8,
        "baselines": {"peft": False, "mergekit": False},
    },
}

#: Settings that do not change what a candidate scores: with others the same search goes on.
APART = ("output", "trials", "seconds", "parallel", "storage", "resume", "batch_size", "device")


def run(config: Config, log: Log) -> Run:
    """Try candidates until the budget is spent, then report the best of them beside all baselines.

    Raises `TriptychError` for mistakes in the settings, and if no candidate could be merged.
    """
    began = time.monotonic()
    check(config)
    model = find_model(config.model)
    data = {domain: config.data.get(domain, domain) for domain in config.experts}
    rows = take_rows(data, config.rows, config.seed, log)
    for domain, taken in rows.items():
        if taken.shared:
            log.say(f"{domain}: {taken.shared} rows are questions of the report, and are not searched on")
    experts = find_experts(config, model, data, log)
    space = Space(config.methods, experts, config.groups, config.by_group, config.space)
    objectives = read_objectives(config.objectives, config.score, list(experts))
    if config.search == "cmaes" and len(objectives) > 1:
        raise ConfigError(f"search=cmaes takes one objective, not {len(objectives)}; tpe takes several")

    inputs = {
        "model": Checkpoint(model).fingerprint(),
        "experts": hash_of(experts.values()),
        "data": ":".join(taken.digest for taken in rows.values()),
    }
    record = new_record("search", to_dict(config), inputs, apart=APART)
    old = find_same(config.output, record, config.resume, apart=APART)
    begin_run(config.output, record, fresh=old is None)
    storage, name = storage_url(config), study_name(record.fingerprint)
    study = a_study(storage, name, ["maximize"] * len(objectives), pruner(), fresh=config.resume is False)
    left = unfinished(study)
    if study.trials:
        log.say(f"going on: {len(study.trials) - len(left)} of {config.trials} candidates are done")

    setting = Setting(
        model=model, experts=experts, search={d: t.search for d, t in rows.items()},
        fit={d: t.fit for d, t in rows.items()},
        scores=tuple(dict.fromkeys([config.score, *(o.score for o in objectives), FINE])),
        batch_size=config.batch_size, max_new_tokens=config.max_new_tokens, device=config.device,
        seed=config.seed,
    )  # fmt: skip
    bench = Bench(setting)
    # Optuna prunes by one figure, and an evolution learns nothing from what it did not see whole.
    prune = config.prune and len(objectives) == 1 and config.search != "cmaes"

    # Methods as they come are tried before anything is drawn, so that a search ends no worse than they do;
    # a random search is there to be compared with.
    known = space.known() if config.search != "random" else []

    # Candidates: those that a kill left come first. The search is seeded by a trial's number, so that what it
    # proposes is a function of the trials before, and not of how often it was interrupted.
    def next_job() -> tuple[optuna.Trial, Candidate] | None:
        done = len(study.trials)
        if not left and (
            done >= config.trials or spent(study) >= (config.seconds or float("inf")) * config.parallel
        ):
            return None
        number = left[0].number if left else done
        study.sampler = sampler(config, number, known[number] if number < len(known) else {})
        trial = optuna.Trial(study, left.pop(0)._trial_id) if left else study.ask()
        own(trial)
        candidate = space.draw(trial)
        trial.set_user_attr("candidate", candidate.told())
        return trial, candidate

    def finished(trial: optuna.Trial, tried: Tried) -> None:
        settle(study, trial, tried, objectives)
        write_search(config.output, study_found(study), objectives, state="partial")
        told = found_of(study.trials[trial.number])
        log.say(f"candidate {trial.number + 1} of {config.trials}: {told.line(objectives)}")

    if config.parallel == 1:
        while (made := next_job()) is not None:
            finished(made[0], try_on(bench, made[1], made[0], objectives, prune))
    else:

        def apart(pool: ProcessPoolExecutor, trial: optuna.Trial, candidate: Candidate) -> Future[Tried]:
            return pool.submit(try_apart, candidate, objectives, prune, storage, name, trial._trial_id)

        side_by_side(config.parallel, config.trials, next_job, apart, finished, log, set_up, (setting,))
    every = study_found(study)
    searched = time.monotonic() - began

    # The best is chosen by what was searched on; the report's rows are asked only now.
    best = chosen(every, objectives)
    if best is None:
        why = next((each.why for each in every if each.why), "none was begun")
        raise ConfigError(f"none of {len(every)} candidates could be measured: {why}")
    front = front_of(every, objectives)
    write_search(config.output, every, objectives, state="finished", best=best, front=front)
    trained = several_tasks(config, rows, log) if config.baselines.multitask else {}
    told, figures = report(config, bench, rows, best, front, every, trained, log)

    metrics = {
        "trials": float(len(every)),
        "pruned": float(sum(each.state == "pruned" for each in every)),
        "failed": float(sum(each.state == "failed" for each in every)),
        "front": float(len(front)),
        **{f"search_{o.score}_{o.what}": o.value(best.values) for o in objectives},
        **figures,
    }
    timings = {"search": searched, "report": time.monotonic() - began - searched}
    done = dataclasses.replace(record, state="finished", metrics=metrics, timings=timings)
    write_run(config.output, done)
    write_search_card(config, done, told, best, len(every))
    made = config.output / ("adapter" if best.candidate.method in MAKERS else "merge.yaml")
    log.say(f"the best: {made}; see {config.output / 'report.html'}")
    return Run(folder=config.output, metrics=metrics)


def check(config: Config) -> None:
    """Raise `ConfigError` for settings out of range, all of them at once."""
    least = {"trials": 1, "parallel": 1, "batch_size": 1, "max_new_tokens": 1}
    wrong = [
        f"{n} must be at least {low}, not {v}" for n, low in least.items() if (v := getattr(config, n)) < low
    ]
    if config.seconds is not None and config.seconds <= 0:
        wrong.append(f"seconds must be more than 0, not {config.seconds}")
    if len(config.experts) < 2:
        wrong.append("experts must name two domains or more, as in experts.textiles=runs/textiles")
    if not config.methods:
        wrong.append("methods must name at least one merge method")
    stray = [domain for domain in config.data if domain not in config.experts]
    wrong += [f"data.{domain} has no expert; give experts.{domain}" for domain in stray]
    if "output" in config.training or "data" in config.training or "model" in config.training:
        wrong.append("training takes settings of sft but model, data and output, which are the search's")
    if wrong:
        raise ConfigError("; ".join(wrong))
    check_score(config.score)
    check_score(plugins.canonical("metrics", config.metric))


def storage_url(config: Config) -> str:
    """Return where the study is kept."""
    return config.storage or f"sqlite:///{(config.output / 'search.db').resolve()}"


def sampler(config: Config, number: int, known: dict[str, Any]) -> optuna.samplers.BaseSampler:
    """Return what chooses a trial's candidate, seeded by its number; ``known`` parameters are given."""
    seed = derive(config.seed, "search", number) % 2**32
    first = max(4, min(12, config.trials // 4))  # drawn at random
    drawn = optuna.samplers.RandomSampler(seed=seed)
    if known:
        with warnings.catch_warnings():  # experimental since Optuna 2.4
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(known, drawn)
    tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
    if config.search != "cmaes":
        return tpe if config.search == "tpe" else drawn
    # What is no number in every candidate, such as the method, is chosen by TPE.
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=first, independent_sampler=tpe, warn_independent_sampling=False
    )


def spent(study: optuna.Study) -> float:
    """Return the seconds that all trials took together, before a kill and after."""
    return sum(float(trial.user_attrs.get("seconds", 0.0)) for trial in study.get_trials(deepcopy=False))


def settle(study: optuna.Study, trial: optuna.Trial, tried: Tried, objectives: tuple[Objective, ...]) -> None:
    """Tell the study what came of a candidate."""
    trial.set_user_attr("values", tried.values)
    trial.set_user_attr("seconds", tried.seconds)
    trial.set_user_attr("merge_seconds", tried.merge_seconds)
    trial.set_user_attr("why", tried.why)
    if tried.state == "complete":
        study.tell(trial, [objective.value(tried.values) for objective in objectives])
    else:
        study.tell(trial, state=TrialState.PRUNED if tried.state == "pruned" else TrialState.FAIL)

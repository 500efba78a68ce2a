"""Watch models, an endpoint or inputs: evaluate what is new, keep a history, tell what got worse."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.choices import asking_arguments
from studio import plugins
from studio.errors import ConfigError, TriptychError, unknown

if TYPE_CHECKING:
    from apps.watch import Settings
    from apps.watch_targets import Target
    from studio.log import Log
    from studio.watch_history import History

EXAMPLE = (
    "triptych watch runs/experts --data textiles --every 1h --history runs/history\n"
    "triptych watch runs/experts --data textiles --inputs incoming --history runs/history --once\n"
    "triptych watch http://127.0.0.1:8000 --data textiles --history runs/served "
    "--must 'textiles.exact_match >= 0.9'\n"
    "triptych watch --accept ties --history runs/history   (what it is now is the new good version)\n"
    "triptych watch --reports reports   (what experts called wrong in the app, as data to learn from)"
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "target",
        nargs="?",
        metavar="WHAT",
        help="a folder with adapters, runs and models, or http://HOST:PORT",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="D",
        help="a data file, a folder or a shipped name; repeatable",
    )
    parser.add_argument("--history", type=Path, metavar="DIR", help="where scores are kept over time")
    parser.add_argument("--every", default="1h", metavar="T", help="10m, 1h, 1d between looks (%(default)s)")
    parser.add_argument(
        "--once",
        action="store_true",
        help="look once; exit 1 if anything is worse, breaks a rule or drifted",
    )
    parser.add_argument(
        "--metric", action="append", metavar="M", help="may be given again (exact_match); the first is shown"
    )
    parser.add_argument("--must", action="append", default=[], metavar="RULE", help="as in triptych eval")
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="chance of any false alarm in --looks looks (%(default)s)"
    )
    parser.add_argument(
        "--looks",
        type=int,
        default=100,
        metavar="N",
        help="looks at something new (%(default)s)",
    )
    parser.add_argument("--accept", metavar="NAME", help="take this variant's version of now for a good one")
    inputs = parser.add_argument_group("drift of inputs")
    inputs.add_argument(
        "--inputs",
        type=Path,
        metavar="DIR",
        help="new inputs: data, or a folder of media and .txt files",
    )
    inputs.add_argument("--reference", metavar="D", help="what inputs used to be like (the first --data)")
    inputs.add_argument(
        "--embed",
        metavar="MODEL",
        help="what embeds inputs (the watched folder's base), or none",
    )
    served = parser.add_argument_group("an endpoint (its key: a file, or TRIPTYCH_ENDPOINT_KEY)")
    served.add_argument("--key-file", type=Path, metavar="FILE", help="file with the key of the endpoint")
    served.add_argument("--host", action="append", default=[], help="a host that may be asked")
    served.add_argument("--model", action="append", default=[], metavar="NAME", help="only this model")
    served.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer (%(default)s)")
    served.add_argument("--tries", type=int, default=4, help="how often a question is asked (%(default)s)")
    more = parser.add_argument_group("more")
    more.add_argument("--base", type=Path, metavar="MODEL", help="base of adapters that do not name theirs")
    asking_arguments(more)
    more.add_argument("--json", action="store_true", help="print JSON instead of tables")
    reports = parser.add_argument_group("reports of wrong answers")
    reports.add_argument("--reports", type=Path, metavar="DIR", help="write the app's reports as a data set")
    reports.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("TRIPTYCH_DB", "sqlite:///runs/triptych.db"),
        help="where the app keeps them (TRIPTYCH_DB, or sqlite:///runs/triptych.db)",
    )
    reports.add_argument("--media", type=Path, metavar="DIR", help="the app's media")


def run(options: argparse.Namespace) -> int:
    """Watch, accept a version, or write the reports."""
    if options.reports:
        return _export(options)
    if options.history is None:
        raise ConfigError("watch needs --history, the folder where scores are kept over time")
    if options.accept:
        return _accept(options)
    if not options.target and not options.inputs:
        raise ConfigError("watch needs a folder or an endpoint to watch, or --inputs")
    if not options.data and (options.target or not options.reference):
        raise ConfigError("watch needs --data: a data file, a folder or a shipped name")
    pause = seconds_of(options.every)
    settings = _settings(options)
    data, inputs = _read(options)
    target = _target(options)
    if options.inputs and options.target:  # the chance of a false alarm is shared
        settings = _halved(settings)

    from studio.log import best_log
    from studio.training.threads import set_threads
    from studio.watch_history import History

    set_threads()
    log = best_log()
    with History(options.history) as history:
        while True:
            wrong = _look(history, target, data, inputs, settings, options, log)
            if options.once:
                return 1 if wrong else 0
            log.say(f"next look at {datetime.fromtimestamp(time.time() + pause):%Y-%m-%d %H:%M:%S}")
            time.sleep(pause)
            try:
                data, inputs = _read(options)
            except TriptychError as error:  # while somebody edits them, the rows of before will do
                log.say(str(error))


def seconds_of(text: str) -> float:
    """Return the seconds that ``30s``, ``10m``, ``1h``, ``1d`` or ``2w`` are.

    Raises:
        ConfigError: it is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--every '{text}' is no time; allowed: a number with s, m, h, d or w, as in 1h")
    return float(match[1]) * _UNITS[match[2]]


def _settings(options: argparse.Namespace) -> Settings:
    from apps.gate import check_names, read_rule
    from apps.watch import Settings

    metrics = list(dict.fromkeys(options.metric or ["exact_match"]))
    for metric in metrics:
        plugins.load("metrics", metric)
    if not 0 < options.alpha < 1:
        raise ConfigError(f"--alpha must be between 0 and 1, not {options.alpha:g}")
    for name in ("looks", "limit", "batch_size", "max_new_tokens", "tries"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if not options.timeout > 0:
        raise ConfigError(f"--timeout must be above 0 seconds, not {options.timeout:g}")
    rules = [read_rule(text) for text in options.must]
    figures = [f"{domain}.{metric}" for domain in options.data or [] for metric in metrics]
    check_names(rules, {rule.variant for rule in rules} | {rule.against for rule in rules}, figures)
    return Settings(
        metrics=metrics,
        rules=rules,
        alpha=options.alpha,
        looks=options.looks,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
    )


def _halved(settings: Settings) -> Settings:
    from dataclasses import replace

    return replace(settings, alpha=settings.alpha / 2)


def _read(options: argparse.Namespace) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """Return the rows by domain, and what reads the inputs anew at each look."""
    from studio.assets import find_data
    from studio.data import load_data

    data = {}
    if options.target:
        paths = {name: find_data(name) for name in dict.fromkeys(options.data)}
        data = {name: load_data(path, split=options.split)[: options.limit] for name, path in paths.items()}
    if options.inputs is None:
        return data, None
    from studio.drift_features import read_inputs

    named = options.reference or options.data[0]
    place = find_data(named)
    split = options.split if place.is_dir() and (place / f"{options.split}.jsonl").is_file() else None
    reference = read_inputs(place, split)
    read_inputs(options.inputs)
    return data, lambda: (reference, read_inputs(options.inputs), (named, str(options.inputs)))


def _target(options: argparse.Namespace) -> Target | None:
    if not options.target:
        return None
    from apps.watch_targets import EndpointTarget, FolderTarget

    if "://" not in options.target:
        return FolderTarget(Path(options.target), options.base)
    from apps.endpoint import checked_address, read_key

    key = read_key(options.key_file)
    checked_address(options.target, options.host, bool(key))
    settings = {"key": key, "models": options.model, "hosts": options.host}
    return EndpointTarget(options.target, {**settings, "timeout": options.timeout, "tries": options.tries})


def _look(
    history: History,
    target: Target | None,
    data: dict[str, Any],
    inputs: Callable[[], Any] | None,
    settings: Settings,
    options: argparse.Namespace,
    log: Log,
) -> bool:
    """Look once, print what there is to tell, and return whether something is wrong."""
    from apps.watch import bad, look, look_at_inputs
    from apps.watch_told import show, told

    names = look(history, target, data, settings, log) if target else []
    if inputs is not None:
        try:
            reference, new, called = inputs()
            model = _embedder(options, target)
            look_at_inputs(history, reference, new, settings, log, names=called, model=model)
        except TriptychError as error:
            if options.once:
                raise
            log.say(str(error))
    wrong = bad(history, names, inputs=inputs is not None)
    if options.json:
        print(json.dumps(told(history, names, wrong, inputs is not None), ensure_ascii=False))
    else:
        show(history, names, wrong, inputs is not None)
    return bool(wrong)


def _embedder(options: argparse.Namespace, target: Target | None) -> Path | None:
    """Return the model that embeds inputs, if any is known."""
    from studio.assets import find_model

    if options.embed == "none":
        return None
    if options.embed:
        return find_model(options.embed)
    bases: Sequence[Path] = getattr(target, "bases", ())
    return bases[0] if bases else None


def _accept(options: argparse.Namespace) -> int:
    from studio.watch_history import History, scored

    if not options.history.is_dir():
        raise ConfigError(f"there is no history in {options.history}")
    with History(options.history) as history:
        names = {str(entry["variant"]) for entry in history.entries if entry["kind"] == "scores"}
        if options.accept not in names:
            raise ConfigError(f"--accept: {unknown('variant', options.accept, names)}")
        number = int(scored(history.entries, options.accept)[-1]["look"])
        history.add({"kind": "accepted", "look": number, "variant": options.accept})
    print(f"{options.accept}: its version of look {number} is the good one now")
    return 0


def _export(options: argparse.Namespace) -> int:
    from studio.faults import export_faults
    from studio.store import Store, media_folder

    scheme, _, file = options.store.partition(":///")
    if scheme.startswith("sqlite") and not Path(file.partition("?")[0]).exists():
        raise TriptychError(f"there is no store {file}; triptych app makes one, and --store names another")
    with Store(options.store) as store:
        counts = export_faults(store, options.media or media_folder(options.store), options.reports)
    told = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    print(json.dumps(counts) if options.json else f"{options.reports}: {told}")
    return 0

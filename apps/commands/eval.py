"""Measure models and adapters on held-out data: a table with value, n and 95 % interval."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.choices import (
    asking_arguments,
    check_limit,
    data_argument,
    fleet_of,
    merge_of,
    model_arguments,
    read_choices,
    read_sets,
)
from apps.gate import check_names, judge, read_rule
from apps.judge_options import judge_arguments, read_judging
from apps.metric_fit import TASKS
from studio import plugins
from studio.errors import ConfigError, unknown

EXAMPLE = (
    "triptych eval nano-omni nano-omni+runs/handwriting/adapter --data handwriting\n"
    "triptych eval ties=runs/merged nano-omni --data commands --data textiles --metric wer --out runs/eval\n"
    "triptych eval runs/merged nano-omni --data textiles --card\n"
    "triptych eval ties=runs/merged nano-omni --data textiles --baseline nano-omni "
    "--must 'textiles.exact_match >= 0.9'\n"
    "triptych eval ties=runs/merged nano-omni --data helpdesk --judge nano-omni+runs/judge/adapter "
    "--judge-pairs --baseline nano-omni --out runs/eval\n"
    "triptych eval runs/merged --data helpdesk --paraphrases 4 --metric consistency"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_arguments(parser, nargs="+")
    data_argument(parser)
    parser.add_argument(
        "--metric",
        action="append",
        metavar="M",
        help=f"may be given again; {', '.join(plugins.names('metrics'))} (exact_match)",
    )
    parser.add_argument(
        "--metrics-for",
        action="append",
        default=[],
        metavar="TASK",
        help=f"the metrics of a kind of task, after those of --metric; {', '.join(TASKS)}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the scores and the answers",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="write the figures into the model card of each merge among the models, in place of earlier ones",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", default="", help="the model that the others are compared with in pairs"
    )
    parser.add_argument(
        "--clusters",
        metavar="GROUP",
        default="",
        help="rows of one value of this group (voice, patient) belong together in intervals and comparisons",
    )
    parser.add_argument(
        "--must",
        action="append",
        default=[],
        metavar="RULE",
        help="exit 1 unless it holds: 'domain.metric >= 0.9', 'ties - base: domain.metric > 0', "
        "'domain.metric[group] >= 0.8' for the worst of a group; may be given again",
    )
    judge_arguments(parser)
    parser.add_argument(
        "--paraphrases",
        type=int,
        metavar="K",
        default=0,
        help="ask every question in K other words, too, and measure the consistency of the answers",
    )
    parser.add_argument(
        "--paraphraser",
        metavar="MODEL",
        default="",
        help="who makes the other words, where rows bring no 'paraphrases': a model, or a step as in "
        "'backtranslation: {there: MODEL}'; set phrases around the question if none is named",
    )
    asking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print a table for each metric, and write the scores where that is asked for."""
    from studio.assets import find_data

    metrics = _metrics(options)
    if options.paraphrases < 0 or (options.paraphraser and not options.paraphrases):
        raise ConfigError("--paraphrases must be at least 1, and --paraphraser goes with it")
    check_limit(options)
    choices = read_choices(options.models)
    names = [choice.name for choice in choices]
    paths = {name: find_data(name) for name in dict.fromkeys(options.data)}
    merges = {choice.name: folder for choice in choices if (folder := merge_of(choice))}
    if options.card:
        _check_cards(merges)
    rules = [read_rule(text) for text in options.must]
    check_names(
        rules, names, [f"{domain}.{metric}" for domain in paths for metric in metrics], options.baseline
    )
    if options.baseline and options.baseline not in names:
        raise ConfigError(f"--baseline: {unknown('variant', options.baseline, names)}")

    from rich.console import Console

    from apps.evaluate import evaluate
    from apps.figures import table
    from studio.log import best_log
    from studio.training.threads import set_threads

    set_threads()
    data = read_sets(options, paths, choices)
    cache = options.out / "answers" if options.out else None
    judging = read_judging(options, best_log(), cache) if options.judge else None
    again = {}
    if options.paraphrases:
        from studio.rephrase import read_paraphraser, rephrased

        step = read_paraphraser(options.paraphraser) if options.paraphraser else None
        again = {
            name: rephrased(samples, options.paraphrases, best_log(), step=step)
            for name, samples in data.items()
        }
    results = evaluate(
        fleet_of(choices),
        data,
        metrics,
        best_log(),
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        cache=cache,
        out=options.out,
        baseline=options.baseline,
        clusters=options.clusters,
        again=again,
        judging=judging,
        by=list(dict.fromkeys(rule.group for rule in rules if rule.group)),
    )
    for metric in metrics:
        Console().print(table(results, metric))
    if options.card:
        from mergers._card import write_scores

        how = f"greedy answers of at most {options.max_new_tokens} tokens"
        for name, folder in merges.items():
            print(f"card: {write_scores(folder, results, name, how)}")
    if options.out:
        print(f"written to {options.out / 'scores.json'}")
    verdicts = judge(rules, results, options.baseline)
    for verdict in verdicts:
        word = "kept" if verdict.kept else "BROKEN"
        print(f"{word:6}  {verdict.variant}: {verdict.rule}  ({verdict.value:.4f})")
    return 0 if all(verdict.kept for verdict in verdicts) else 1


def _metrics(options: argparse.Namespace) -> list[str]:
    """Return the names of the metrics that are asked for, each once, as their files spell them."""
    for task in options.metrics_for:
        if task not in TASKS:
            raise ConfigError(f"--metrics-for: {unknown('task', task, TASKS)}")
    named = [*(options.metric or []), *(name for task in options.metrics_for for name in TASKS[task])]
    named += ["judge"] if options.judge else []
    named += ["consistency"] if options.paraphrases else []
    if not options.metric and not options.metrics_for:
        named = ["exact_match", *named]
    for name in named:
        plugins.load("metrics", name)
    return list(dict.fromkeys(plugins.canonical("metrics", name) for name in named))


def _check_cards(merges: dict[str, Path]) -> None:
    """Raise `ConfigError` or `CheckpointError` before the first answer, if there is no card to write into."""
    if not merges:
        raise ConfigError("--card writes into the cards of merges, and none of the models is one")
    from mergers._card import check_card

    for folder in merges.values():
        check_card(folder)

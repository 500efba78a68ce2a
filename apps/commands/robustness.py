"""Measure how models bear perturbed rows at five strengths, and what an attack leaves of their answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.choices import (
    asking_arguments,
    check_limit,
    data_argument,
    fleet_of,
    model_arguments,
    read_choices,
    read_sets,
)
from studio import plugins

EXAMPLE = (
    "triptych robustness nano-omni runs/textiles --data textiles --out runs/robust\n"
    "triptych robustness runs/textiles --data textiles --perturbation blur --limit 50 --out runs/robust\n"
    "triptych robustness runs/textiles --data textiles --attack pgd --eps 8 --out runs/robust"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_arguments(parser, nargs="+")
    data_argument(parser)
    parser.add_argument(
        "--perturbation",
        action="append",
        default=[],
        metavar="P",
        help=f"may be given again; {', '.join(plugins.names('perturb'))} (all that change something)",
    )
    parser.add_argument(
        "--metric", action="append", metavar="M", help="may be given again, the first is drawn (exact_match)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the evaluation: robustness.json, the curves, and the answers that were given",
    )
    parser.add_argument(
        "--attack",
        action="append",
        default=[],
        metavar="A",
        choices=("fgsm", "pgd", "worst_of_k"),
        help="fgsm and pgd on pictures and sounds, worst_of_k on questions; may be given again, and without "
        "--perturbation it is all that is done",
    )
    parser.add_argument(
        "--eps", type=float, default=8.0, help="how far pixels are changed, of 255 (%(default)s)"
    )
    parser.add_argument(
        "--sound-eps", type=float, default=0.002, help="how far amplitudes are, of full scale (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of pgd (%(default)s)")
    parser.add_argument("--k", type=int, default=8, help="mistyped questions to draw from (%(default)s)")
    parser.add_argument("--strength", type=int, default=2, help="how far they are, 1 to 5 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn for each row (%(default)s)")
    asking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluate at all strengths, print the curves and the areas under them, and write and draw both."""
    from studio.assets import find_data

    metrics = list(dict.fromkeys(options.metric or ["exact_match"]))
    for metric in metrics:
        plugins.load("metrics", metric)
    check_limit(options)
    for name in options.perturbation:
        plugins.canonical("perturb", name)
    choices = read_choices(options.models)
    paths = {name: find_data(name) for name in dict.fromkeys(options.data)}

    from rich.console import Console

    from apps.attacks import Words, read_attacks, under_attack
    from apps.robustness import FILE, check_names, concerned, robustness
    from apps.robustness_figures import attack_table, curve_tables, write_figures
    from studio.log import best_log
    from studio.training.threads import set_threads

    set_threads()
    data = read_sets(options, paths, choices)
    names = check_names(options.perturbation)
    if not options.perturbation:
        names = [] if options.attack else concerned(names, data)
    words = Words(k=options.k, strength=options.strength, seed=options.seed)
    attacks = read_attacks(
        options.attack, data, eps=options.eps, sound_eps=options.sound_eps, steps=options.steps, words=words
    )
    fleet = fleet_of(choices)
    settings = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    hit = under_attack(fleet, data, attacks, metrics, best_log(), out=options.out, **settings)
    told = robustness(
        fleet, data, names, metrics, best_log(), out=options.out, seed=options.seed, more={"attacks": hit},
        **settings,
    )  # fmt: skip
    for metric in metrics:
        for view in [*curve_tables(told, metric), *([attack_table(told, metric)] if hit else [])]:
            Console().print(view)
    for path in [options.out / FILE, *write_figures(told, metrics[0], options.out)]:
        print(path)
    return 0

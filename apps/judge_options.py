"""The judge of `triptych eval`, as the command line names it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.choices import one_base, read_choices
from studio.errors import ConfigError

if TYPE_CHECKING:
    from apps.judging import Judging
    from studio.log import Log


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, which `read_judging` reads."""
    parser.add_argument(
        "--judge",
        metavar="MODEL[+ADAPTER]",
        default="",
        help="a model whose probabilities of ratings judge every answer by its reference (metric judge)",
    )
    parser.add_argument(
        "--judge-prompt",
        type=Path,
        metavar="FILE",
        help="what the judge is asked, with {question}, {reference} and {answer} in it",
    )
    parser.add_argument(
        "--judge-ratings",
        metavar="R,R",
        default="",
        help="what the judge may say, the worst first, as in 1,2,3,4,5 (no,yes)",
    )
    parser.add_argument(
        "--judge-pairs",
        action="store_true",
        help="let it compare each answer with the baseline's, too, in both orders",
    )
    parser.add_argument(
        "--judge-votes",
        metavar="URL",
        default="",
        help="a store of people's votes, sqlite:///runs/triptych.db say: how far the judge agrees with them",
    )


def read_judging(options: argparse.Namespace, log: Log, cache: Path | None) -> Judging:
    """Return the judge that the options name, held against people's votes where they name these, too.

    Raises:
        ConfigError: a prompt or ratings that are none, --judge-pairs without --baseline, a store without
            votes on pairs.
        CheckpointError: there is no such model.
    """
    from apps.judging import Judging, verdicts_in
    from studio.judge import PROMPT, RATINGS, Judge, read_prompt
    from studio.variants import Engine

    if options.judge_pairs and not options.baseline:
        raise ConfigError("--judge-pairs compares with a baseline; name it as --baseline NAME")
    prompt = read_prompt(options.judge_prompt) if options.judge_prompt else PROMPT
    ratings = (
        tuple(part.strip() for part in options.judge_ratings.split(",")) if options.judge_ratings else RATINGS
    )
    (choice,) = read_choices([options.judge])
    judge = Judge(engine=Engine(*one_base([choice])), name=choice.name, prompt=prompt, ratings=ratings)
    kept = verdicts_in(cache, judge)
    found = None
    if options.judge_votes:
        from studio.judge_agreement import agreement
        from studio.store import Store

        file = Path(options.judge_votes.partition(":///")[2].partition("?")[0])
        if options.judge_votes.startswith("sqlite") and not file.exists():
            raise ConfigError(f"--judge-votes: there is no store {file}")
        with Store(options.judge_votes) as store:
            found = agreement(judge, store.comparisons(), store.votes(), kept, log)
        if found is None:
            raise ConfigError(f"--judge-votes: {options.judge_votes} holds no vote on a pair of answers")
        log.say(
            f"judge {choice.name}: agrees with people on {found.value:.2f} of {found.n} pairs "
            f"({found.ci[0]:.2f}-{found.ci[1]:.2f}), kappa {found.kappa:.2f} "
            f"({found.kappa_ci[0]:.2f}-{found.kappa_ci[1]:.2f})"
        )
    return Judging(judge=judge, title=options.judge, kept=kept, pairs=options.judge_pairs, agreement=found)

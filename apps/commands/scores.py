"""Read results of lm-eval, lmms-eval, VLMEvalKit, OpenAI evals, HELM or a model card as an evaluation.

What wrote them is seen from the files. Answers are scored by our metrics, with intervals; `triptych report`
and `triptych groups` then read the folder as one of `triptych eval`. Where a file holds figures alone,
scores.json is all that is written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLE = (
    "triptych scores results/20261123_results.json --out runs/outside\n"
    "triptych scores base=results/base tuned=results/tuned --baseline base --out runs/outside\n"
    "triptych scores GPT_MMBench.xlsx --must 'MMBench.exact_match >= 0.8'"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "files", nargs="+", metavar="[NAME=]FILE", help="a file or folder of results; NAME= names its model"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the evaluation folder to write")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="M",
        help="of ours, on the answers; may be given again (exact_match)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        default="",
        choices=["lm_eval", "openai_evals", "vlmeval", "helm", "model_index"],
        help="the format, where it is not to be found out",
    )
    parser.add_argument("--baseline", metavar="NAME", default="", help="what the others are compared with")
    parser.add_argument(
        "--must",
        action="append",
        default=[],
        metavar="RULE",
        help="exit 1 unless it holds: 'domain.metric >= 0.9'; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(options: argparse.Namespace) -> int:
    """Read, score, print, write, and say which rules hold."""
    from apps.gate import check_names, judge, read_rule
    from apps.outside import check_baseline, judged, named, scores, take, write
    from studio import plugins
    from studio.errors import ConfigError
    from studio.outside_results import read_outside

    rules = [read_rule(text) for text in options.must]
    modules = {
        name: plugins.load("metrics", name) for name in dict.fromkeys(options.metric or ["exact_match"])
    }
    for name, module in modules.items():
        if getattr(module, "NEEDS", ()):
            raise ConfigError(f"--metric {name} needs {', '.join(module.NEEDS)}, which results do not hold")
    found = []
    for text in options.files:
        name, equals, rest = text.partition("=")
        whole = not equals or not name or Path(text).exists()
        found.append(
            ("" if whole else name, read_outside(Path(text if whole else rest), like=options.source))
        )
    answers, figures = named(found)
    check_baseline(options.baseline, answers)
    taken = take(answers, figures, modules, baseline=options.baseline)
    told = scores(taken)
    check_names(rules, list(told), {key for each in told.values() for key in each})
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        _print(told)
    if options.out:
        write(options.out, taken, options.files, baseline=options.baseline)
        if not options.json:
            alone = "" if taken.lines else " (figures alone: there are no answers to report on)"
            print(f"written to {options.out}{alone}")
    verdicts = judge(rules, judged(taken), options.baseline)
    for verdict in verdicts:
        word = "kept" if verdict.kept else "BROKEN"
        print(f"{word:6}  {verdict.variant}: {verdict.rule}  ({verdict.value:.4f})")
    return 0 if all(verdict.kept for verdict in verdicts) else 1


def _print(told: dict[str, dict[str, dict[str, float | None]]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="scores, 95 % interval", title_justify="left")
    for name in ("variant", "domain.metric"):
        table.add_column(name)
    for name in ("value", "interval", "n"):
        table.add_column(name, justify="right")
    for variant, figures in told.items():
        for key, each in figures.items():
            ends = "-" if each["low"] is None else f"{each['low']:.3f}-{each['high']:.3f}"
            size = "-" if each["n"] is None else f"{each['n']}"
            table.add_row(Text(variant), Text(key), f"{each['value']:.3f}", ends, size)
    Console().print(table)

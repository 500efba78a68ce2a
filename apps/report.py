"""The report of an evaluation folder: report.html to look at, report.json, and what goes into model cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.lineage import origins
from studio.eval_report.assemble import Report, assemble
from studio.eval_report.evaluation import read_evaluation
from studio.eval_report.page import write_report
from studio.eval_report.words import summary


def report(
    folder: Path,
    *,
    out: Path | None = None,
    baseline: str = "",
    experts: Sequence[str] = (),
    metric: str = "",
    examples: int = 0,
    models: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Path, Report]:
    """Write the report of an evaluation and return the page's path and what it says.

    Args:
        folder: what `triptych eval --out` wrote.
        out: where report.html and report.json are written (the folder itself).
        baseline: what gains and losses are counted against (the evaluation's own, or the base).
        experts: who is at home in a domain, or which variants are single experts.
        metric: the headline (the evaluation's first).
        examples: so many questions of each domain are shown with all answers.
        models: where the variants come from, if evaluation.json does not say it (`apps.lineage.origins`).
        about: what else the report says of itself, by name.

    Raises:
        DataError: the folder holds no whole evaluation.
        ConfigError: a variant, domain or metric that it does not have.
    """
    evaluation = read_evaluation(folder)
    made = assemble(
        evaluation,
        origins=origins(evaluation, models),
        experts=experts,
        baseline=baseline,
        metric=metric,
        about=about,
        examples=examples,
    )
    return write_report(out or folder, made), made


def merges_of(made: Report) -> dict[str, Path]:
    """Return the folders of the variants that are merges, as evaluation.json names them."""
    models = made.evaluation.told.get("models", {})
    return {name: Path(models[name]["folder"]) for name in made.of_kind("merge") if name in models}


def write_cards(merges: Mapping[str, Path], made: Report) -> list[Path]:
    """Write what a report says of each merge into its model card, in place of what stood there before.

    Raises:
        CheckpointError, MergeError: a folder is no whole merge; see `mergers._card.write_scores`.
    """
    from mergers._card import write_scores

    evaluation = made.evaluation
    decoding = evaluation.told.get("decoding", {})
    how = f"greedy answers of at most {decoding.get('max_new_tokens', '?')} tokens"
    return [
        write_scores(
            folder,
            evaluation.results,
            name,
            how,
            summary=summary(made, name),
            data=evaluation.told.get("data", {}),
        )
        for name, folder in merges.items()
        if any(name in cells for cells in evaluation.results.values())
    ]

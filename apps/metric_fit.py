"""Which metrics fit which answers: for a task by name, and for the references of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from studio import plugins
from studio.errors import DataError, TriptychError

TASKS: dict[str, tuple[str, ...]] = {
    "speech": ("wer", "cer"),
    "questions": ("exact_match", "accuracy", "token_f1"),
    "reading": ("anls", "exact_match"),
    "boxes": ("box_iou",),
    "grid": ("grid_iou",),
    "text": ("rouge_l", "bleu", "chrf", "factual"),
    "fluency": ("repetition", "distinct_2", "length_error"),
    "sureness": ("exact_match", "calibration_error", "perplexity"),
}
"""What kind of task -> its metrics, the headline first."""

LATER = ("confidence", "surprise", "tokens", "judgement")
"""Columns that are there once the variants have answered."""
_TRIED = 200  # references that a proposal is tried on


def check_fit(
    domain: str,
    modules: Mapping[str, ModuleType],
    references: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    given: Sequence[str] = (),
) -> None:
    """Score a domain's references against themselves, before anything is asked.

    Args:
        domain: its name, for the sentence.
        modules: the metrics.
        references: the right answers [N].
        columns: what the rows hold that metrics need.
        given: columns that will be there although the rows do not hold them.

    Raises:
        DataError: a metric does not fit; the sentence says why, and which ones do.
    """
    from studio.scores import needed

    for name, module in modules.items():
        wanted = set(getattr(module, "NEEDS", ()))
        try:
            if wanted & {*given, *LATER}:
                needed(module, name, {**dict.fromkeys([*given, *LATER], ()), **columns})
                continue
            module.score(references, references, **needed(module, name, columns))
        except ValueError as error:
            fits = fitting(references, columns)
            raise DataError(f"domain '{domain}': {error}; metrics that fit: {', '.join(fits)}") from None


def fitting(references: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the metrics that can score these references without a judge or probabilities."""
    from studio.scores import needed

    some = list(references[:_TRIED])
    found = []
    for name in plugins.names("metrics"):
        try:
            module = plugins.load("metrics", name)
            more = needed(module, name, {key: list(values[:_TRIED]) for key, values in columns.items()})
            module.score(some, some, **more)
        except (ValueError, TriptychError):
            continue
        found.append(name)
    return found

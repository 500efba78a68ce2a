"""Share of answers that name the right label, wherever in the sentence they name it.

The labels are the distinct references. An answer is read as the label that stands in it as whole words,
case and punctuation aside; of labels that contain one another the longest counts ("loose thread" before
"thread"), and of several the one that is named first. An answer that names none is wrong. With free text
as references it is `exact_match` with words around the answer forgiven.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from studio.metrics._pairs import pairs
from studio.metrics.wer import normal

HIGHER_IS_BETTER = True


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of right labels, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return 1.0 for every answer whose label is right and 0.0 for the others [N]."""
    found = pairs(predictions, references)
    labels = sorted({normal(reference) for reference in references} - {""}, key=lambda label: -len(label))
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, labels))})(?!\w)") if labels else None
    return [float(_label(prediction, pattern) == normal(reference)) for prediction, reference in found]


def _label(answer: str, pattern: re.Pattern[str] | None) -> str:
    text = normal(answer)
    match = pattern.search(text) if pattern is not None and text else None
    return match[1] if match else ("" if not text else "\0")  # what names no label equals none
